"""The page of one run, from its records only."""

import math
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from fedeff.core.records import RoundRecord
from fedeff.report.configuration import configuration_section
from fedeff.report.curves import (
    AXES,
    Axis,
    Curve,
    accuracy_of,
    curve_figure,
    faults_figure,
    loss_of,
    points,
    series_figure,
)
from fedeff.report.layers import layers_figure, synchronised_in
from fedeff.report.measures import measures_section
from fedeff.report.page import Key, Page, Picture, Section, Table, Tile, write_page
from fedeff.report.participation import estimated_of, histogram_figure, participation_of, strip_figure
from fedeff.report.partition import partition_figure
from fedeff.report.representation import representation_section
from fedeff.report.run import Run, read_run
from fedeff.report.units import human_bytes, human_seconds, percent, plain

__all__ = ["write_report"]

_FACTS = ("model", "dataset", "partition")
_ALERTS = {
    "failed": "This run failed",
    "interrupted": "This run was interrupted",
    "unfinished": "This run has not finished: it goes on, or it was killed",
}


def write_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run folder and return its path.

    Works for runs in any state: without rounds, without accuracy, of an app that is not ours.

    Raises:
        DataError: the folder holds no run, or a record in it is broken.
    """
    run = read_run(run_dir)
    return write_page(run_page(run), run.folder / "report.html")


def run_page(run: Run) -> Page:
    """The page of a run, section by section; what has no data is left out."""
    sections = [
        _learning(run),
        representation_section(run),
        measures_section(run),
        _cost(run),
        _model(run),
        _layers(run),
        _participation(run),
        _federated_evaluation(run),
        _faults(run),
        _partition(run),
        _rounds(run),
        configuration_section(run),
    ]
    return Page(
        title=run.name,
        subtitle=_subtitle(run),
        facts=_facts(run),
        alert=_alert(run),
        tiles=_tiles(run),
        sections=tuple(section for section in sections if section is not None),
    )


def _trained(run: Run) -> tuple[RoundRecord, ...]:
    return tuple(r for r in run.rounds if r.server_round > 0)


def _subtitle(run: Run) -> str:
    strategy = run.strategy or "A federated run"
    cohort = max((r.cohort for r in run.rounds), default=0)
    who = f", {cohort:,} of {run.clients:,} clients a round" if run.clients and cohort else ""
    return f"{strategy}{who}"


def _facts(run: Run) -> tuple[str, ...]:
    values = [str(value) for key in _FACTS if (value := run.setting(key))]
    if run.seed is not None:
        values.append(f"seed {run.seed}")
    values += [f"{run.summary.engine} engine"] if run.summary.engine else []
    return (*values, *([_date(run.summary.started_at)] if run.summary.started_at else []))


def _date(iso: str) -> str:
    try:
        return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M}"
    except ValueError:
        return iso


def _alert(run: Run) -> str:
    alert = _ALERTS.get(run.summary.status, "")
    if alert and run.summary.reason:
        alert += f": {run.summary.reason}"
    if not _trained(run):
        alert = f"{alert or 'Nothing to draw yet'}. No round is on record."
    return alert


def _tiles(run: Run) -> tuple[Tile, ...]:
    rounds, last = _trained(run), run.rounds[-1] if run.rounds else RoundRecord(0)
    planned = run.setting("num-server-rounds")
    of_planned = f"of {planned} planned" if isinstance(planned, int) and planned != len(rounds) else ""
    ending = run.summary.reason if run.summary.status == "stopped" else of_planned
    per_round = max(1, len(rounds))
    tiles = [
        _accuracy_tile(run),
        Tile("Rounds", f"{len(rounds):,}", ending),
        Tile("Uplink", *_bytes_and_mean(last.uplink_bytes_total, per_round)),
        Tile("Downlink", *_bytes_and_mean(last.downlink_bytes_total, per_round)),
        Tile(
            "Wall time",
            human_seconds(last.wall_s_total),
            f"{human_seconds(last.wall_s_total / per_round)} a round",
        ),
    ]
    if last.virtual_s_total is not None:
        per = f"{human_seconds(last.virtual_s_total / per_round)} a round"
        tiles.append(Tile("Virtual time", human_seconds(last.virtual_s_total), per))
    else:
        heard = sum(r.arrived for r in rounds)
        each = human_bytes(last.uplink_bytes_total / heard) if heard else "–"
        tiles.append(Tile("Uplink a reply", each, f"{heard:,} replies" if heard else ""))
    cohort = max((r.cohort for r in rounds), default=0)
    tiles.append(
        Tile("Clients", f"{run.clients:,}" if run.clients else "–", f"{cohort:,} a round" if cohort else "")
    )
    tiles.append(Tile("Strategy", run.strategy or "–", f"seed {run.seed}" if run.seed is not None else ""))
    return tuple(tiles)


def _bytes_and_mean(total: int, rounds: int) -> tuple[str, str]:
    return human_bytes(total), f"{human_bytes(total / rounds)} a round"


def _accuracy_tile(run: Run) -> Tile:
    at, values = points(run.rounds, AXES[0].read, accuracy_of)
    if not values:
        return Tile("Final accuracy", "–", "no evaluation on record")
    best = int(np.argmax(values))
    kind = "Final accuracy" if any(r.accuracy is not None for r in run.rounds) else "Final accuracy, clients"
    return Tile(kind, percent(values[-1]), f"best {percent(values[best])} in round {at[best]:.0f}")


def _axes_of(run: Run) -> list[Axis]:
    """The axes along which this run moves: virtual time beside wall time only where there is a clock."""
    return [axis for axis in AXES if any((axis.read(r) or 0.0) > 0 for r in run.rounds if r.server_round > 0)]


def _learning(run: Run) -> Section | None:
    pictures = []
    for axis in _axes_of(run):
        x, y = points(run.rounds, axis.read, accuracy_of)
        if y:
            drawn = curve_figure(
                [Curve("accuracy", x, y)], axis, "Accuracy", share=True, mark_best=axis.noun == "rounds"
            )
            pictures.append(Picture(f"Accuracy against {axis.noun}", drawn))
    x, y = points(run.rounds, AXES[0].read, loss_of)
    if y:
        pictures.append(Picture("Loss against rounds", curve_figure([Curve("loss", x, y)], AXES[0], "Loss")))
    if not pictures:
        return None
    if len(pictures) % 2:
        pictures[0] = pictures[0].widened()
    return Section("Learning", _learning_intro(run), tuple(pictures))


def _learning_intro(run: Run) -> str:
    if any(r.accuracy is not None for r in run.rounds):
        return "The global model on the server's test set."
    if any(accuracy_of(r) is not None for r in run.rounds):
        return "The mean over the clients that evaluated, weighted by their examples."
    return "What clients reported; the app put no accuracy on record."


def _cost(run: Run) -> Section | None:
    rounds = _trained(run)
    if not rounds:
        return None
    last, arrivals = rounds[-1], sum(r.arrived for r in rounds)
    up, down = human_bytes(last.uplink_bytes_total), human_bytes(last.downlink_bytes_total)
    each = f", {human_bytes(last.uplink_bytes_total / arrivals)} for each reply" if arrivals else ""
    traffic = series_figure(
        rounds, [lambda r: float(r.uplink_bytes), lambda r: float(r.downlink_bytes)], "Bytes a round", "bytes"
    )
    seconds = series_figure(rounds, [lambda r: r.wall_s], "Wall time a round", "seconds")
    keys = (Key("up", 0), Key("down", 1))
    return Section(
        "Cost",
        f"Clients sent {up}{each}; the server sent {down}.",
        (Picture("Bytes", traffic, keys=keys), Picture("Seconds", seconds)),
    )


def _model(run: Run) -> Section | None:
    """How large the model was when; nothing where it stayed as it was."""
    rounds = [r for r in _trained(run) if r.parameters]
    sizes = [r.parameters or 0 for r in rounds]
    changed = [after for before, after in pairwise(rounds) if before.parameters != after.parameters]
    if not changed:
        return None
    when = ", ".join(f"{r.server_round}" for r in changed)
    by_reply = series_figure(
        rounds, [lambda r: r.uplink_bytes / r.arrived if r.arrived else None], "Uplink a reply", "bytes"
    )
    parameters = series_figure(rounds, [lambda r: float(r.parameters or 0)], "Parameters")
    return Section(
        "Model size",
        f"From {sizes[0]:,} to {sizes[-1]:,} parameters ({percent(sizes[-1] / sizes[0])}), "
        f"changed with round {when}.",
        (Picture("Parameters", parameters), Picture("Bytes of a reply", by_reply)),
    )


def _layers(run: Run) -> Section | None:
    """Which layer travelled when; nothing where every round averaged them all."""
    rounds = _trained(run)
    layers, held = synchronised_in(rounds)
    if held.all():
        return None
    share = f"{percent(float(held.mean()))} of the layers were averaged in a round"
    rarest = layers[int(held.sum(axis=1).argmin())]
    return Section(
        "Layers",
        f"{share}; {rarest} least often, in {int(held.sum(axis=1).min()):,} of {len(rounds):,} rounds.",
        (Picture("Averaged when", layers_figure(layers, held, rounds[0].server_round), wide=True),),
    )


def _participation(run: Run) -> Section | None:
    rounds = _trained(run)
    if not any(r.participants for r in rounds):
        return None
    took_part = participation_of(rounds, run.clients)
    times = took_part.sum(axis=0)
    never = int((times == 0).sum())
    unheard = f"; {never:,} ({percent(never / times.size)}) never" if never else ""
    said = f"{times.size - never:,} of {times.size:,} clients were heard at least once{unheard}."
    estimates = sum(len(r.estimated) for r in rounds)
    estimated = estimated_of(rounds, run.clients) if estimates and run.clients else None
    if estimates:
        among = sum(len(set(r.participants) | set(r.estimated)) for r in rounds)
        said += f" {estimates:,} updates ({percent(estimates / among)}) were estimated by the server."
    return Section(
        "Participation",
        said,
        (
            Picture("How often", histogram_figure(took_part)),
            Picture(
                "When" if estimated is None else "When heard, and when estimated",
                strip_figure(took_part, rounds[0].server_round, estimated),
            ),
        ),
    )


def _partition(run: Run) -> Section | None:
    if run.class_counts is None or 0 in run.class_counts.shape or not run.class_counts.any():
        return None
    counts = run.class_counts
    sizes = counts.sum(axis=1)
    held = (counts > 0).sum(axis=1)
    picture = Picture("Clients by classes", partition_figure(counts), wide=True)
    return Section(
        "Data partition",
        f"{len(counts):,} clients hold {int(np.median(sizes)):,} samples in the median "
        f"(from {int(sizes.min()):,} to {int(sizes.max()):,}) of {np.median(held):.3g} classes; "
        "the stronger a cell, the larger the share of the class.",
        (picture,),
    )


def _federated_evaluation(run: Run) -> Section | None:
    rounds = [r for r in run.rounds if r.evaluate_metrics]
    if not rounds:
        return None
    names = sorted({name for r in rounds for name in r.evaluate_metrics})
    pictures = tuple(_evaluation_picture(rounds, name) for name in names if _worst(rounds, name))
    last = rounds[-1]
    rows = tuple(
        (name, plain(last.evaluate_metrics.get(name)), plain(last.worst_tenth.get(name))) for name in names
    )
    header = (f"Round {last.server_round}", "Mean over clients", "Mean over the worst 10%")
    return Section(
        "Federated evaluation",
        f"Clients scored the global model on their own data ({last.evaluate_arrived:,} in the last round).",
        pictures,
        (Table(header, rows),),
    )


def _worst(rounds: list[RoundRecord], name: str) -> bool:
    return any(math.isfinite(r.worst_tenth.get(name, math.nan)) for r in rounds)


def _evaluation_picture(rounds: list[RoundRecord], name: str) -> Picture:
    def read(metrics: str) -> Callable[[RoundRecord], float | None]:
        def value(record: RoundRecord) -> float | None:
            found: float = getattr(record, metrics).get(name, math.nan)
            return found if math.isfinite(found) else None

        return value

    unit = "share" if "acc" in name.lower() else ""
    drawn = series_figure(rounds, [read("evaluate_metrics"), read("worst_tenth")], name, unit)
    return Picture(name, drawn, keys=(Key("mean", 0), Key("worst 10% of clients", 1)))


def _faults(run: Run) -> Section | None:
    errors = sum(r.errors + r.evaluate_errors for r in run.rounds)
    missing = sum(r.missing + r.evaluate_missing for r in run.rounds)
    refused, need_full = run.summary.refused, run.summary.need_full
    if not errors + missing + refused + need_full:
        return None
    keys = (Key("errors", 1, line=False), Key("missing", 4, line=False))
    picture = Picture("Replies that did not come", faults_figure(run.rounds), keys=keys).widened(2.6)
    affected = sum(bool(r.errors + r.missing + r.evaluate_errors + r.evaluate_missing) for r in run.rounds)
    said = f"{errors:,} replies carried an error and {missing:,} never came, in {affected:,} rounds."
    if refused:
        said += f" {refused:,} replies were refused: what they held did not fit."
    if need_full:
        said += f" {need_full:,} times a client had lost its state and asked for the whole model."
    return Section("Errors and drop-outs", said, (picture,) if errors + missing else ())


def _rounds(run: Run) -> Section | None:
    if not run.rounds:
        return None
    header: tuple[str, ...] = (
        "Round",
        "Accuracy",
        "Loss",
        "Asked",
        "Heard",
        "Errors",
        "Missing",
        "Up",
        "Down",
        "Wall",
        "Virtual",
    )
    rows = [_row(r) for r in run.rounds]
    if len({r.parameters for r in run.rounds if r.parameters}) > 1:
        header += ("Parameters",)
        rows = [
            (*row, f"{r.parameters:,}" if r.parameters else "–")
            for row, r in zip(rows, run.rounds, strict=True)
        ]
    table = Table(header, tuple(rows), fold=f"All {len(run.rounds)} rows")
    return Section("Rounds", tables=(table,))


def _row(record: RoundRecord) -> tuple[str, ...]:
    return (
        str(record.server_round),
        percent(accuracy_of(record)),
        plain(loss_of(record)),
        f"{record.cohort:,}",
        f"{record.arrived:,}",
        f"{record.errors + record.evaluate_errors:,}",
        f"{record.missing + record.evaluate_missing:,}",
        human_bytes(record.uplink_bytes),
        human_bytes(record.downlink_bytes),
        human_seconds(record.wall_s),
        "–" if record.virtual_s is None else human_seconds(record.virtual_s),
    )
