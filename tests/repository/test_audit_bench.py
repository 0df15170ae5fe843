"""What the audit's page measures by: how a finding is scored, and what a target counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedeff.audit.attacks.phong import Phong
from fedeff.audit.finding import Finding

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.audit.by_hand import seeded, shown_of
from bench.audit.crops import crops
from bench.audit.networks import SmoothNet
from bench.audit.table import rows
from bench.audit.tried import LABELS, LEAST_ROW, PSNR, reached, scores_of, tried

sys.path.pop()


@pytest.fixture
def shown():
    rng = np.random.default_rng(0)
    return shown_of(
        seeded(SmoothNet, 0), rng.random((3, 1, 8, 8), np.float32), np.array([4, 0, 4]), classes=10
    )


def _finding(inputs, labels):
    return Finding("test", inputs, labels, 0.0, True, 0.0)


def test_rows_in_another_order_are_right(shown):
    order = [2, 0, 1]
    found = scores_of(_finding(shown.truth.inputs[order], shown.truth.labels[order]), shown)
    assert found[PSNR] == found[LEAST_ROW] == 400
    assert found[LABELS] == 100


def test_a_row_that_was_not_rebuilt_counts_as_grey(shown):
    truth = shown.truth.inputs
    found = scores_of(_finding(truth[:2], None), shown)
    grey_db = -10 * np.log10(np.mean((truth[2] - 0.5) ** 2))
    assert found[LEAST_ROW] == pytest.approx(grey_db)
    assert found[PSNR] == pytest.approx(grey_db + 10 * np.log10(3))
    assert found[LABELS] is None


def test_an_attack_that_cannot_be_tried_has_no_values(shown):
    assert set(tried(Phong(), shown, 1.0, 0).values()) == {None}


def test_a_seed_without_a_value_did_not_reach_the_target():
    seeds = [{"case": {PSNR: 50.0}}, {"case": {PSNR: None}}, {"case": {PSNR: 39.0}}, {"case": {PSNR: 40.0}}]
    figure = reached(seeds, "case", 40, share=90)
    assert figure.measured.values == (50.0,)
    assert figure.verdict == "short"


def test_crops_are_those_of_the_seed():
    assert crops(2, 0).shape == (2, 3, 32, 32)
    assert 0 <= crops(2, 0).min() < crops(2, 0).max() <= 1
    np.testing.assert_array_equal(crops(2, 1), crops(2, 1))
    assert not np.array_equal(crops(1, 0), crops(1, 1))


def test_every_row_has_enough_seeds_for_a_median():
    few = {key for key, row in rows().items() if len(row.seeds) < 10}
    assert few == {"quick", "matrix"}  # seconds of whole commands; hundreds of cells a seed
