"""The matrix: naive and adaptive columns, what is left out, rows that are not made twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedeff.app import Settings
from fedeff.audit.matrix import audit_matrix
from fedeff.audit.naive import is_plain, naive
from fedeff.audit.victims import chosen_victims
from fedeff.core.errors import ConfigError

OPEN = Settings(dataset="digits", model="mlp", partition="iid", cohort=20, batch_size=1, local_steps=1)


def made(folder: Path, *defences: str, rounds: int = 0):
    return audit_matrix(
        OPEN,
        folder,
        attacks=["phong"],
        defences=defences,
        clients=20,
        trials=2,
        accuracy_rounds=rounds,
        processes=1,
    )


def test_rows_hold_both_columns_and_are_kept(tmp_path, monkeypatch) -> None:
    result = made(tmp_path, "none", "top_k(0.3)", rounds=1)
    assert [one.name for one in result.defences] == ["none", "top_k(0.3)"]
    assert len(result.cells) == 4
    told, untold = (result.cell("phong", "none", adaptive) for adaptive in (True, False))
    assert (told.trials, told.leaks, told.psnr_db) == (untold.trials, untold.leaks, untold.psnr_db)
    assert told.leaks == 2
    assert all(0 < one.accuracy < 1 for one in result.defences)
    assert result.defences[1].uplink_bytes < result.defences[0].uplink_bytes
    rows = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(rows + b'{"key":"torn')  # as a kill leaves a row
    monkeypatch.setattr("fedeff.audit.matrix.attacked", None)  # what is there is not made again
    again = made(tmp_path, "none", "top_k(0.3)", rounds=1)
    assert (again.cells, again.defences) == (result.cells, result.defences)
    with pytest.raises(TypeError, match="not callable"):
        made(tmp_path, "none", "int8", rounds=1)


def test_a_naive_attacker_takes_what_did_not_come_for_zeros() -> None:
    (victim,) = chosen_victims(replace(OPEN, codec="top_k(0.3)"), 20, lambda unknowns: 1)
    view = victim.captured.view
    assert not is_plain(view)
    assert is_plain(naive(view))
    for name, told in naive(view).first.told.items():
        before = view.first.told[name]
        assert np.array_equal(told.values, np.where(before.mask, before.values, 0.0))


def test_a_mistyped_defence_is_an_error_and_what_does_not_fit_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown defence 'pruneing'"):
        made(tmp_path, "none", "pruneing")
    with pytest.raises(ConfigError, match="named twice"):
        made(tmp_path, "none", "none")
    with pytest.raises(ConfigError, match="cohort = 50, but there are 20 clients"):
        made(tmp_path, "secure(50)")
    assert not list(tmp_path.iterdir())


def test_a_cell_without_a_number_says_why(tmp_path) -> None:
    told = audit_matrix(
        replace(OPEN, batch_size=4),
        tmp_path,
        attacks=["phong", "r-gap"],
        defences=["secure(20)"],
        clients=20,
        trials=1,
        processes=1,
    )
    mixed, refused = (told.cell(attack, "secure(20)", True) for attack in ("phong", "r-gap"))
    assert (mixed.trials, mixed.psnr_db, mixed.obstacle) == (1, None, "it was tried, and told nothing")
    assert refused.trials == 0
    assert "r-gap rebuilds one row from one step" in refused.obstacle
