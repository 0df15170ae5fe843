"""Enough clients to attack: production runs, one after the other, until there are so many updates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, prod

from fedeff.app.settings import Settings
from fedeff.audit.capturing.capture import Captured, capture
from fedeff.core.errors import AuditError
from fedeff.core.rng import generator

__all__ = ["Victim", "chosen_victims", "controls", "undefended", "unknowns_of"]

_MOST_RUNS_WITHOUT_A_ROW = 3


@dataclass(frozen=True, eq=False)
class Victim:
    """An update that was captured, and the seed of the run that it came from."""

    captured: Captured
    seed: int

    @property
    def partitions(self) -> tuple[int, ...]:
        """The clients that it is of: one, or those that were summed."""
        partition = self.captured.partition
        return (partition,) if isinstance(partition, int) else partition


def unknowns_of(victim: Victim) -> int:
    """How many numbers an update hides: the rows' inputs; of rounds on different rows, a mean of them."""
    view = victim.captured.view
    rows = len(victim.captured.truth)
    together = rows if view.same_rows else ceil(rows / len(view.exchanges))
    return together * prod(view.public.input_shape)


def chosen_victims(
    settings: Settings,
    clients: int,
    count_for: Callable[[int], int],
    *,
    informed: bool = False,
    rounds: int = 1,
) -> list[Victim]:
    """As many updates as `count_for` wants, which is told how many numbers the first hides.

    They are of a run with the settings' seed, then of runs with the next ones. One run gives an update of
    each client of its cohort that has a row, in an order that tells nothing; of a secure sum it gives one.
    Of several `rounds` an update is all that a client sends in the first so many: the server asks the same
    cohort in each, as it may, since it is the server that draws.

    Raises:
        AuditError: if no client has a row to train on.
    """
    shown = _shown(settings, clients, informed, rounds)
    first = next(shown)
    return [first, *islice(shown, count_for(unknowns_of(first)) - 1)]


def controls(
    settings: Settings, clients: int, beside: Sequence[Victim], *, informed: bool = False
) -> list[Victim]:
    """One row of the first client of each victim, undefended: what attacks must succeed on to be believed.

    Strategies draw cohorts in ways of their own: of a client that FedAvg does not ask another one stands in.
    """
    shown = {}
    for seed in {victim.seed for victim in beside}:
        plain = capture(replace(undefended(settings), seed=seed), clients, informed=informed)
        shown[seed] = {one.partition: one for one in plain if len(one.truth)}
    found = []
    for victim in beside:
        left = shown[victim.seed]
        if left:
            partition = victim.partitions[0]
            found.append(Victim(left.pop(partition if partition in left else next(iter(left))), victim.seed))
    return found


def undefended(settings: Settings) -> Settings:
    """The positive control's settings: the same model and data, one row, one step of SGD, sent as it is."""
    kept = ("model", "dataset", "data_folder", "partition", "cohort", "seed", "initial_weights", "device")
    same = {name: getattr(settings, name) for name in kept}
    return replace(
        Settings(),
        **same,
        learning_rate=settings.learning_rate,
        batch_size=1,
        local_steps=1,
    )


def _shown(settings: Settings, clients: int, informed: bool, rounds: int) -> Iterator[Victim]:
    seed, empty = settings.seed, 0
    while empty < _MOST_RUNS_WITHOUT_A_ROW:
        asked = None if rounds == 1 else _cohort(settings, clients, seed)
        shown = capture(
            replace(settings, seed=seed), clients, victims=asked, rounds=rounds, informed=informed
        )
        order = generator(seed, purpose="audit victims").permutation(len(shown))
        found = [Victim(shown[place], seed) for place in order if len(shown[place].truth)]
        yield from found
        seed, empty = seed + 1, 0 if found else empty + 1
    raise AuditError("no client of the cohort has a row to train on; take fewer clients or another partition")


def _cohort(settings: Settings, clients: int, seed: int) -> list[int]:
    """The clients that are asked in every round."""
    drawn = generator(seed, purpose="audit cohort").permutation(clients)[: settings.cohort]
    return [int(one) for one in drawn]
