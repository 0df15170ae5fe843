"""What a finding is worth, measured against the truth: the only place where the two meet."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedeff.audit.finding import Finding
from fedeff.audit.judging.floor import (
    PUBLIC_ROWS,
    Floor,
    floor_psnr_db,
    floor_tokens,
    guess_from,
    labels_chance,
)
from fedeff.audit.judging.identify import draw_decoys, identified, not_in
from fedeff.audit.judging.metrics import (
    label_counts_f1,
    matched,
    psnr_table,
    rouge_l,
    rouge_n,
    ssim,
    token_table,
)
from fedeff.audit.judging.trial import Attempt, Ending, Rows, Samples, Score
from fedeff.audit.truth import Truth
from fedeff.audit.view import Public
from fedeff.core.errors import AuditError

__all__ = ["Reference", "attempt_of", "reference_for", "samples_of", "score"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_SHOWN_ROWS = 8  # in a picture


@dataclass(frozen=True, eq=False)
class Reference:
    """What a finding is held against beside the truth: guesses without the update, and decoys a row."""

    floor: Floor
    decoys: tuple[NDArray, ...]
    labels_chance: float


def reference_for(truth: Truth, inputs: NDArray, labels: NDArray, rng: np.random.Generator) -> Reference:
    """Guesses and decoys from rows (n, *input_shape) as the model gets them; rows of the truth are left out.

    Draw one for each trial, from rows like the victim's: a test set, other clients. A reference that is
    shared by trials makes their tests hang together.
    """
    others = np.flatnonzero(not_in(truth, inputs))
    public = inputs[rng.permutation(others)[:PUBLIC_ROWS]]
    chance = labels_chance(labels, len(truth), rng)
    return Reference(guess_from(public), draw_decoys(inputs, labels, truth, rng), chance)


def score(finding: Finding, truth: Truth, public: Public, reference: Reference) -> Score:
    """How near the finding came to the truth, over all of its rows.

    Rebuilt pixels are clipped to the public range first: that needs no knowledge. Rows with a number that
    is not finite count as not rebuilt. Several rebuilt rows are matched to the true ones one to one.

    Raises:
        AuditError: the finding's rows do not have the shape of an input.
    """
    scored = Score(rows=len(truth))
    if finding.labels is not None:
        scored = replace(
            scored,
            labels_f1=label_counts_f1(finding.labels, truth.labels),
            labels_chance=reference.labels_chance,
        )
    if finding.inputs is None:
        return scored
    if public.task == "classify" and finding.inputs.shape[1:] != truth.inputs.shape[1:]:
        raise AuditError(
            f"{finding.attack} gave rows of shape {finding.inputs.shape[1:]}, expected "
            f"{truth.inputs.shape[1:]}: an attack rebuilds whole inputs"
        )
    rebuilt = _usable(finding.inputs, public)
    scored = _with_identity(scored, rebuilt, truth.inputs, reference.decoys)
    if public.task == "next-character":
        return _with_tokens(scored, rebuilt, truth.inputs, reference.floor)
    return _with_images(scored, rebuilt, truth.inputs, reference.floor, public.highest - public.lowest)


def attempt_of(finding: Finding, scored: Score, budget_spent: bool) -> Attempt:
    """The finding without its rows: what a trial keeps of it.

    An attack that did not end by itself ran out of its budget where that is spent, and else is stuck.
    """
    ended: Ending = "converged" if finding.converged else "budget" if budget_spent else "stuck"
    return Attempt(finding.attack, ended, finding.seconds, scored, finding.loss, finding.facts)


def samples_of(
    truth: Truth, public: Public, floor: Floor, finding: Finding, control: Finding | None = None
) -> Samples | None:
    """At most 8 true rows, those that were rebuilt best, beside the rebuilt, the floor's and the control's.

    `control` is the same attack on the same rows without the defence. The floor's picture is its mean; its
    PSNR is that of the better guess. Of a finding without inputs there are no samples.
    """
    if finding.inputs is None:
        return None
    rebuilt = _aligned(finding.inputs, truth.inputs, public)
    beside = None
    if control is not None and control.inputs is not None:
        beside = _aligned(control.inputs, truth.inputs, public)
    shown = _shown(rebuilt, beside)
    pixels = public.task == "classify"
    floors = floor_psnr_db(floor, truth.inputs, _peak(public))[shown] if pixels else np.empty(0)
    return Samples(
        attack=finding.attack,
        original=_rows(truth.inputs[shown], public),
        rebuilt=_rows(rebuilt.rows[shown], public),
        floor=_rows(np.repeat(floor.mean[None], len(shown), axis=0), public),
        control=None if beside is None else _rows(beside.rows[shown], public),
        rebuilt_psnr_db=_numbers(rebuilt.worth[shown]) if pixels else (),
        floor_psnr_db=tuple(floors.tolist()),
        control_psnr_db=_numbers(beside.worth[shown]) if pixels and beside is not None else (),
    )


@dataclass(frozen=True, eq=False)
class _Aligned:
    """Rebuilt rows in the truth's order, and the PSNR or the exact tokens of each; NaN, -1: none."""

    rows: NDArray
    worth: NDArray


def _shown(rebuilt: _Aligned, beside: _Aligned | None) -> NDArray:
    """The rows for a picture, best first: those of the control, which may be fewer, are among them."""
    worth = np.nan_to_num(rebuilt.worth, nan=-1.0)
    also = np.zeros(len(worth)) if beside is None else np.isfinite(beside.worth).astype(float)
    chosen = np.lexsort((-worth, -also))[:_SHOWN_ROWS]
    return np.asarray(chosen[np.argsort(-worth[chosen], kind="stable")])


def _aligned(inputs: NDArray, truth: NDArray, public: Public) -> _Aligned:
    rebuilt = _usable(inputs, public)
    tokens = public.task == "next-character"
    table = token_table(rebuilt, truth) if tokens else psnr_table(rebuilt, truth, _peak(public))
    rows = np.full(truth.shape, -1 if tokens else np.nan, np.int64 if tokens else float)
    worth = np.full(len(truth), np.nan)
    for column, row in enumerate(matched(table)):
        if row is not None:
            places = min(truth.shape[1], rebuilt.shape[1])  # of tokens: sequences may differ in length
            rows[column, :places] = rebuilt[row, :places]
            worth[column] = table[row, column]
    return _Aligned(rows, worth)


def _with_identity(scored: Score, rebuilt: NDArray, truth: NDArray, decoys: tuple[NDArray, ...]) -> Score:
    hits = identified(rebuilt, truth, decoys)
    tested = [len(rows) for rows, hit in zip(decoys, hits, strict=True) if hit is not None]
    return replace(
        scored,
        rebuilt=len(rebuilt),
        tested=len(tested),
        identified=sum(hit is True for hit in hits),
        decoys=min(tested, default=0),
    )


def _with_images(scored: Score, rebuilt: NDArray, truth: NDArray, floor: Floor, peak: float) -> Score:
    table = psnr_table(rebuilt, truth, peak)
    pairs = matched(table)
    return replace(
        scored,
        psnr_db=tuple(None if row is None else float(table[row, column]) for column, row in enumerate(pairs)),
        floor_psnr_db=tuple(floor_psnr_db(floor, truth, peak).tolist()),
        ssim=tuple(
            None if row is None else ssim(rebuilt[row], truth[column], peak)
            for column, row in enumerate(pairs)
        )
        if truth.ndim == 4
        else (),
    )


def _with_tokens(scored: Score, rebuilt: NDArray, truth: NDArray, floor: Floor) -> Score:
    """Shares over all true rows: one that was not rebuilt counts as wrong from end to end."""
    table = token_table(rebuilt, truth)
    pairs = [(row, column) for column, row in enumerate(matched(table)) if row is not None]
    texts = [(_known(rebuilt[row]), truth[column].tolist()) for row, column in pairs]
    whole = sum(rebuilt[row].tolist() == truth[column].tolist() for row, column in pairs)
    return replace(
        scored,
        tokens=float(sum(table[pair] for pair in pairs) / truth.size),
        floor_tokens=floor_tokens(floor, truth),
        exact_sequences=whole / len(truth),
        rouge_1=sum(rouge_n(left, right, 1) for left, right in texts) / len(truth),
        rouge_2=sum(rouge_n(left, right, 2) for left, right in texts) / len(truth),
        rouge_l=sum(rouge_l(left, right) for left, right in texts) / len(truth),
    )


def _usable(inputs: NDArray, public: Public) -> NDArray:
    """The rows that can be judged: tokens as they are, finite pixels clipped to the public range."""
    if public.task == "next-character":
        return inputs.astype(np.int64)
    finite = np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
    return np.asarray(np.clip(inputs[finite].astype(float), public.lowest, public.highest))


def _known(sequence: NDArray) -> list[int]:
    return [token for token in sequence.tolist() if token >= 0]


def _peak(public: Public) -> float:
    return public.highest - public.lowest


def _rows(rows: NDArray, public: Public) -> Rows:
    """Pixels on a scale from 0 to 1, tokens as they are."""
    if public.task == "next-character":
        return Rows.of(rows.astype(np.int64))
    return Rows.of((rows - public.lowest) / _peak(public))


def _numbers(values: NDArray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
