"""Findings held against the truth."""

from dataclasses import replace

import numpy as np
import pytest
from audit.results import digits
from torch import nn

from fedeff.audit.finding import Finding
from fedeff.audit.judging.score import attempt_of, reference_for, samples_of, score
from fedeff.audit.truth import Truth
from fedeff.audit.view import Public
from fedeff.errors import AuditError

IMAGES = Public(nn.Identity, "classify", 10, (1, 8, 8))
TEXT = Public(nn.Identity, "next-character", 6, (5,))


@pytest.fixture(scope="module")
def case():
    """Three digits that were trained on, and what they are held against."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs, labels = (bunch.images[:, None] / 16.0).astype(np.float32), bunch.target
    truth = Truth(inputs[:3].astype(float), labels[:3])
    return truth, reference_for(truth, inputs, labels, np.random.default_rng(0))


def finding(inputs, labels=None, **more) -> Finding:
    return Finding(
        **{"attack": "lm", "inputs": inputs, "labels": labels, "loss": 0.0, "converged": True, "seconds": 1.0}
        | more
    )


def test_shuffled_copies_are_matched_and_identified(case):
    truth, reference = case
    scored = score(
        finding(truth.inputs[[2, 0, 1]] + 0.001, truth.labels[[2, 0, 1]]), truth, IMAGES, reference
    )
    assert min(scored.psnr_db) > 55
    assert min(scored.ssim) > 0.99
    assert min(scored.gains_db) > 40
    assert (scored.tested, scored.identified, scored.decoys) == (3, 3, 100)
    assert scored.labels_f1 == 1.0
    assert scored.labels_told
    assert 0 < scored.labels_chance < 0.05
    assert scored.tokens is None


def test_the_floors_own_guess_gains_nothing(case):
    truth, reference = case
    scored = score(finding(np.repeat(reference.floor.mean[None], 3, axis=0)), truth, IMAGES, reference)
    assert max(scored.gains_db) <= 1e-9
    assert scored.labels_f1 is None


def test_rows_that_are_missing_or_not_finite_are_not_rebuilt(case):
    truth, reference = case
    inputs = truth.inputs[:2].copy()
    inputs[1, 0, 0, 0] = np.nan
    scored = score(finding(inputs), truth, IMAGES, reference)
    assert scored.rebuilt == 1
    assert scored.psnr_db[1:] == (None, None)
    assert scored.best_row == 0
    nothing = score(finding(np.full_like(inputs, np.inf)), truth, IMAGES, reference)
    assert (nothing.rebuilt, nothing.psnr_db, nothing.best_psnr_db) == (0, (None,) * 3, None)
    assert (nothing.tested, nothing.identified) == (3, 0)


def test_pixels_are_clipped_to_the_public_range(case):
    truth, reference = case
    far = np.where(truth.inputs == 0, -7.0, truth.inputs)
    assert min(score(finding(far), truth, IMAGES, reference).psnr_db) == 400


def test_wider_ranges_count_by_their_width(case):
    truth, reference = case
    wide = replace(IMAGES, lowest=-1.0, highest=1.0)
    near = finding(truth.inputs + 0.01)
    plain = score(near, truth, IMAGES, reference).psnr_db[0]
    assert score(near, truth, wide, reference).psnr_db[0] >= plain + 5.9


def test_labels_alone_are_scored(case):
    truth, reference = case
    scored = score(finding(None, truth.labels[[0, 0, 1]]), truth, IMAGES, reference)
    assert scored.labels_f1 == pytest.approx(2 / 3)
    assert (scored.psnr_db, scored.tested) == ((), 0)


def test_wrong_shapes_are_refused(case):
    truth, reference = case
    with pytest.raises(AuditError, match="an attack rebuilds whole inputs"):
        score(finding(np.zeros((3, 1, 4, 4))), truth, IMAGES, reference)


def test_texts_are_scored_by_their_tokens():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 6, (300, 5))
    truth = Truth(rows[:2], rows[:2])
    reference = reference_for(truth, rows, rows, rng)
    found = rows[[1, 0]].copy()
    found[0, 4] = -1
    scored = score(finding(found), truth, TEXT, reference)
    assert scored.tokens == pytest.approx(0.9)
    assert scored.exact_sequences == 0.5
    assert scored.rouge_1 == pytest.approx((1 + 8 / 9) / 2)
    assert scored.floor_tokens < 0.6
    assert scored.psnr_db == ()
    samples = samples_of(truth, TEXT, reference.floor, finding(found), None)
    assert samples.rebuilt.array.tolist() == [rows[0].tolist(), [*rows[1, :4], -1]]


def test_samples_are_the_best_rows_and_those_of_the_control(case):
    _, reference = case
    truth = Truth(digits(12, seed=3), np.zeros(12, int))
    rebuilt = truth.inputs + np.linspace(0.3, 0.01, 12).reshape(12, 1, 1, 1)
    samples = samples_of(truth, IMAGES, reference.floor, finding(rebuilt), finding(truth.inputs[:1]))
    assert samples.original.shape == (8, 1, 8, 8)
    assert samples.rebuilt_psnr_db == tuple(sorted(samples.rebuilt_psnr_db, reverse=True))
    assert samples.control_psnr_db == (*(None,) * 7, 400.0)
    assert np.isnan(samples.control.array[0]).all()
    assert np.array_equal(samples.original.array[-1], truth.inputs[0].astype(np.float32))
    assert samples_of(truth, IMAGES, reference.floor, finding(None)) is None


@pytest.mark.parametrize(
    ("converged", "spent", "ended"),
    [(True, True, "converged"), (False, True, "budget"), (False, False, "stuck")],
)
def test_how_an_attempt_ended(case, converged, spent, ended):
    truth, reference = case
    found = finding(
        truth.inputs, converged=converged, loss=float("nan"), facts={"rank": 7, "ratio": float("inf")}
    )
    attempt = attempt_of(found, score(found, truth, IMAGES, reference), spent)
    assert (attempt.ended, attempt.loss, attempt.facts) == (ended, None, {"rank": 7.0})
