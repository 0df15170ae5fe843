"""One attack on one view, held against the truth: what it rebuilt, and what that took."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from bench.figures import Figure, Spread
from bench.seeded.row import Case, Measured
from fedeff.audit.finding import Attack, Budget, Finding
from fedeff.audit.judging.metrics import HIGHEST_PSNR_DB, label_counts_f1, matched, psnr_table, token_table
from fedeff.audit.truth import Truth
from fedeff.audit.view import NDArray, Public, ServerView
from fedeff.core.rng import generator
from fedeff.models.threads import one_thread

__all__ = [
    "CPU_S",
    "LABELS",
    "LEAST_ROW",
    "LOSS",
    "PSNR",
    "TOKENS",
    "WALL_S",
    "Shown",
    "best_of",
    "by_any",
    "reached",
    "scores_of",
    "seconds",
    "spread",
    "tried",
]

PSNR, LEAST_ROW, LABELS, TOKENS = "PSNR, dB", "worst row, dB", "labels right, %", "tokens exact, %"
CPU_S, WALL_S, LOSS = "CPU s", "wall s", "log10 of the loss"
_LEAST_LOSS = 1e-40


@dataclass(frozen=True, eq=False)
class Shown:
    """What an attacker sees, and what is true."""

    view: ServerView
    truth: Truth


def tried(attack: Attack, shown: Shown, budget_s: float, seed: int) -> Case:
    """What the attack rebuilt within the budget, on one thread; None for all where it cannot be tried.

    PSNR is of the whole batch: that of its mean squared error, rebuilt rows matched to true ones one to
    one, a row that was not rebuilt as bad as grey. The truth meets the finding here and nowhere before.
    """
    if attack.obstacle(shown.view) is not None:
        return dict.fromkeys((PSNR, LEAST_ROW, LABELS, LOSS, CPU_S, WALL_S))
    rng = generator(seed, purpose=f"bench audit {attack.name}")
    with one_thread():
        _warm_up()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        finding = attack.run(shown.view, Budget(budget_s), rng)
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return {**scores_of(finding, shown), CPU_S: cpu_s, WALL_S: wall_s}


@cache
def _warm_up() -> None:
    """What a process pays once: torch loads more of itself at the first forward derivative, over a second."""

    def loss(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.conv2d(x, weight)).square().sum()

    slope = partial(torch.func.grad(loss), torch.ones(1, 1, 2, 2))
    x = torch.ones(1, 1, 3, 3)
    torch.func.vmap(lambda along: torch.func.jvp(slope, (x,), (along,))[1])(torch.ones(2, 1, 1, 3, 3))


def scores_of(finding: Finding, shown: Shown) -> dict[str, float | None]:
    """How near a finding came to the truth, by measure."""
    truth, public = shown.truth, shown.view.public
    found: dict[str, float | None] = {}
    if public.task == "next-character":
        found[TOKENS] = 100 * _exact_tokens(finding.inputs, truth.inputs)
    else:
        rows_db = _rows_db(finding.inputs, truth.inputs, public)
        found[PSNR] = None if rows_db is None else float(-10 * np.log10(np.mean(10 ** (-rows_db / 10))))
        found[LEAST_ROW] = None if rows_db is None else float(rows_db.min())
        told = finding.labels
        found[LABELS] = None if told is None else 100 * label_counts_f1(told, truth.labels)
    loss = finding.loss
    found[LOSS] = math.log10(max(loss, _LEAST_LOSS)) if math.isfinite(loss) else None
    return found


def _rows_db(rebuilt: NDArray | None, truth: NDArray, public: Public) -> NDArray | None:
    """PSNR of each true row, None where the attack tells no inputs at all."""
    if rebuilt is None:
        return None
    peak = public.highest - public.lowest
    finite = np.isfinite(rebuilt.reshape(len(rebuilt), -1)).all(axis=1)
    table = psnr_table(np.clip(rebuilt[finite], public.lowest, public.highest), truth, peak)
    grey = np.full((1, *truth.shape[1:]), (public.highest + public.lowest) / 2)
    missing = psnr_table(grey, truth, peak)[0]
    pairs = matched(table)
    of_rows = [missing[at] if row is None else table[row, at] for at, row in enumerate(pairs)]
    return np.asarray(np.minimum(of_rows, HIGHEST_PSNR_DB))


def _exact_tokens(rebuilt: NDArray | None, truth: NDArray) -> float:
    if rebuilt is None:
        return 0.0
    table = token_table(rebuilt, truth)
    found = sum(table[row, at] for at, row in enumerate(matched(table)) if row is not None)
    return float(found / truth.size)


def spread(seeds: Sequence[Measured], case: str, measure: str) -> Spread | None:
    """A measure of a case over the seeds that have it."""
    found = [one[case].get(measure) for one in seeds if case in one]
    known = tuple(value for value in found if value is not None)
    return Spread(known) if known else None


def reached(
    seeds: Sequence[Measured], case: str, least: float, *, share: float | None, measure: str = PSNR
) -> Figure:
    """In how many of the seeds a case reached so much, in percent; one without a value did not.

    `share` of the seeds, in percent, is asked for; None: nothing is.
    """
    found = [one[case].get(measure) for one in seeds if case in one]
    hits = sum(value is not None and value >= least for value in found)
    measured = Spread((100.0 * hits / len(found),)) if found else None
    unit = measure.rpartition(", ")[2]
    told = f"{case}: seeds with at least {least:g} {unit} ({hits}/{len(found)})"
    return Figure(told, measured, at_least=share, unit="%", digits=0)


def best_of(seeds: Sequence[Measured], cases: Sequence[str]) -> Spread:
    """The PSNR of the attack that came nearest, of several on one view: who attacks tries all."""
    return Spread(tuple(max(one[case][PSNR] or 0.0 for case in cases) for one in seeds))


def by_any(
    seeds: Sequence[Measured], name: str, attacks: Iterable[str], least: float, share: float
) -> Figure:
    """In how many seeds one of the attacks was near enough.

    Cases are called by the name and the attack. `share` of the seeds, in percent, is asked for.
    """
    best = best_of(seeds, [f"{name}, {attack}" for attack in attacks]).values
    hits = sum(value >= least for value in best)
    told = f"{name}: seeds with at least {least:g} dB by one of the attacks ({hits}/{len(best)})"
    return Figure(told, Spread((100.0 * hits / len(best),)), at_least=share, unit="%", digits=0)


def seconds(seeds: Sequence[Measured], case: str, most: float | None) -> Figure:
    """Seconds that a case took, on the wall."""
    return Figure(f"{case}: seconds", spread(seeds, case, WALL_S), at_most=most, unit="s")
