"""Views from the production path: the messages that really travelled, opened as the server opens them."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from flwr.serverapp import Grid
from torch import nn

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.app.workload import client_model, dataset_of, resolved, shares_of
from fedeff.audit.capturing.losing import LosingGrid, SomeGrid
from fedeff.audit.capturing.recording import Recorder, Seen
from fedeff.audit.capturing.rows import Rows, joined
from fedeff.audit.truth import Truth
from fedeff.audit.view import Exchange, Labels, Public, ServerView
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.records import RoundRecord
from fedeff.grids import TapGrid, Taps
from fedeff.models import Structure, apply
from fedeff.models.threads import one_thread
from fedeff.simulation import run_simulation

__all__ = ["Captured", "Network", "Vantage", "capture", "public_of"]

Vantage = Literal["server", "released"]


@dataclass(frozen=True, eq=False)
class Captured:
    """What an attacker sees of one client, or of a sum of several, and what is true.

    `partition` says whose rows are the truth; `wire_bytes` is the payload that came up in these rounds.
    """

    view: ServerView
    truth: Truth
    partition: int | tuple[int, ...]
    wire_bytes: int


@dataclass(frozen=True)
class Network:
    """Builds the model that clients train, of the structure that a round's messages name."""

    settings: Settings
    structure: Structure

    def __call__(self) -> nn.Module:
        """A fresh module."""
        model = client_model(self.settings)
        return model if self.structure.is_whole else apply(self.structure, model)


class _EnoughError(Exception):
    """The rounds that were wanted are over; ends a run as no setting does."""


def capture(
    settings: Settings,
    clients: int,
    *,
    victims: Sequence[int] | None = None,
    rounds: int = 1,
    after_round: int = 0,
    informed: bool = False,
    vantage: Vantage = "server",
    lost: Collection[int] = (),
) -> list[Captured]:
    """What is seen of each victim in `rounds` rounds after the first `after_round`, from a run made here.

    The run is that of these settings up to there; it is as long as they say, or as long as this needs, since
    schedules depend on that. `victims` are partitions; without them they are all that the run draws. With
    them the cohort is they and as many others as it takes, in every round: who else trains changes
    nothing in what one client sends but the model that it begins with. A victim has one exchange for each
    reply of its. An `informed` attacker knows the labels (of text none: they are the text). Updates of
    the partitions `lost` never arrive.

    A server sees single updates, before it clips them and adds noise; under secure aggregation it sees
    sums, and there is one capture for all that are in them. From the vantage "released" it is one anyway:
    who sees nothing but the models knows the mean, with the noise of a private sum.

    Raises:
        AuditError: if a victim sends no update in the rounds, or its messages cannot be understood.
        ConfigError, DataError: for settings that cannot run.

    >>> settings = Settings(dataset="digits", model="mlp", cohort=20, local_steps=1, batch_size=1)
    >>> len(capture(settings, 20, victims=[3])[0].truth)  # doctest: +SKIP
    1
    """
    if rounds < 1 or after_round < 0:
        raise ConfigError(f"rounds = {rounds} after round {after_round}; expected 1 or more after 0 or more")
    if vantage not in ("server", "released"):
        raise ConfigError(f"vantage = {vantage!r}; expected server or released")
    known, _ = resolved(settings)
    known.check_clients(clients)
    unknown = sorted({*(victims or ()), *lost} - set(range(clients)))
    if unknown:
        raise ConfigError(f"there is no client {unknown[0]} among {clients}; partitions count from 0")
    shares_of(known, clients)
    _refuse_personal(known)
    wanted = range(after_round + 1, after_round + rounds + 1)
    recorder = Recorder(known, clients, wanted, None if victims is None else tuple(victims), vantage)
    with one_thread():
        _run(known, clients, recorder, wanted, victims, lost)
        rows = Rows(known, clients)
        if recorder.sums_only:
            return [_of_sum(known, recorder, rows, informed)]
        chosen = sorted(recorder.seen) if victims is None else victims
        if not chosen:
            raise AuditError(f"no client's update came in {_in_words(wanted)}; look why the run fails")
        return [_of_client(known, recorder, rows, victim, informed) for victim in chosen]


def public_of(settings: Settings, structure: Structure | None = None) -> Public:
    """What everybody knows of a run of these settings."""
    known, _ = resolved(settings)
    dataset = dataset_of(known)
    text = dataset.task == "next-character"
    return Public(
        network=Network(known, structure or Structure()),
        task=dataset.task,
        classes=dataset.classes,
        input_shape=tuple(dataset.input_shape),
        lowest=0.0,
        highest=dataset.classes - 1.0 if text else 1.0,
    )


def _run(
    settings: Settings,
    clients: int,
    recorder: Recorder,
    wanted: range,
    victims: Sequence[int] | None,
    lost: Collection[int],
) -> None:
    """The run, up to the end of the last round that is wanted and all replies to it."""
    length = max(settings.num_server_rounds, wanted.stop - 1)
    told = replace(
        settings,
        num_server_rounds=length,
        evaluate_every=length,
        evaluate_clients=0,
        coded_eval="",
        fold="server",  # a sum on the workers would be of our engine, not of what travels
        run_folder="",
    )

    def tapped(grid: Grid) -> Grid:
        nodes = recorder.meet(grid)
        there = LosingGrid(grid, [nodes[one] for one in lost]) if lost else grid
        asked = _drawn_from(settings.cohort, clients, victims)
        return TapGrid(
            there if asked is None else SomeGrid(there, [nodes[one] for one in asked]), recorder.wire
        )

    def ended(record: RoundRecord) -> None:
        if record.server_round >= wanted.stop - 1 and not recorder.outstanding:
            raise _EnoughError

    taps = Taps(
        wire=tapped,
        decoded=lambda grid: TapGrid(grid, recorder.decoded),
        released=lambda grid: TapGrid(grid, recorder.releases(grid)),
    )
    with suppress(_EnoughError):
        run_simulation(
            server_app(on_round=ended, taps=taps),
            client_app_of(told),
            clients,
            run_config=told.run_config(),
            engine="inline",
        )


def _drawn_from(cohort: int, clients: int, victims: Sequence[int] | None) -> list[int] | None:
    """The partitions that rounds are drawn from: victims first, others up to the cohort's size; None: all."""
    if victims is None:
        return None
    if len(set(victims)) > cohort:
        raise ConfigError(
            f"{len(set(victims))} victims, but a round asks {cohort} clients; take fewer, or a larger cohort"
        )
    return list(dict.fromkeys([*victims, *range(clients)]))[:cohort]


def _of_client(settings: Settings, recorder: Recorder, rows: Rows, victim: int, informed: bool) -> Captured:
    seen = recorder.seen.get(victim)
    if not seen:
        raise AuditError(
            f"client {victim} sent no update in {_in_words(recorder.wanted)} (of {settings.cohort} clients a "
            "round); take another victim, a larger cohort, or more rounds"
        )
    met = [_met(rows, one, victim) for one in seen]
    truth = rows.truth(victim, tuple(sorted(set().union(*met))))
    view = _view(settings, seen, truth, informed, same_rows=len(set(met)) == 1)
    return Captured(view, truth, victim, sum(one.wire_bytes for one in seen))


def _of_sum(settings: Settings, recorder: Recorder, rows: Rows, informed: bool) -> Captured:
    seen = recorder.summed()
    if not seen:
        raise AuditError(
            f"no sum came in {_in_words(recorder.wanted)}: too few clients were left, or the run fails"
        )
    met = [{partition: _met(rows, one, partition) for partition in one.partitions} for one in seen]
    everybody = sorted(set().union(*met))
    truths = [
        rows.truth(partition, tuple(sorted(set().union(*(one.get(partition, ()) for one in met)))))
        for partition in everybody
    ]
    truth = joined(truths)
    view = _view(settings, seen, truth, informed, same_rows=all(one == met[0] for one in met))
    return Captured(view, truth, tuple(everybody), sum(one.wire_bytes for one in seen))


def _met(rows: Rows, seen: Seen, partition: int) -> tuple[int, ...]:
    """The rows of a client that an exchange is of."""
    training = seen.exchange.training
    if len(seen.rounds) > 1:  # gathered over several rounds, of which the training tells all steps
        training = replace(training, steps=training.steps // len(seen.rounds))
    met = [rows.met(partition, one, training) for one in seen.rounds]
    return tuple(sorted(set().union(*met)))


def _view(
    settings: Settings, seen: Sequence[Seen], truth: Truth, informed: bool, *, same_rows: bool
) -> ServerView:
    structures = {one.structure.json: one.structure for one in seen}
    if len(structures) > 1:
        raise AuditError("the model becomes smaller within these rounds; capture rounds of one structure")
    public = public_of(settings, seen[0].structure)
    exchanges: tuple[Exchange, ...] = tuple(one.exchange for one in seen)
    return ServerView(public, exchanges, _labels(public, truth) if informed else None, same_rows)


def _labels(public: Public, truth: Truth) -> Labels | None:
    """Sorted: their order in the data is nothing that anybody knows."""
    return None if public.task == "next-character" else np.sort(truth.labels)


def _refuse_personal(settings: Settings) -> None:
    model = client_model(settings)
    state = model.state_dict().keys()
    own = [key for key, one in model.named_parameters() if one.requires_grad and key not in state]
    if own:
        raise AuditError(
            f"parameter {own[0]!r} is trained and never leaves its client, so nobody knows the model that "
            "others would rebuild inputs with; audit without personal-factors"
        )


def _in_words(wanted: range) -> str:
    return f"round {wanted[0]}" if len(wanted) == 1 else f"rounds {wanted[0]} to {wanted[-1]}"
