"""The record of an audit: whole after a round trip, and refused where it is another's."""

import json
from dataclasses import replace

import numpy as np
import pytest
from audit.results import audit, full_audit, image_score, matrix, trial

from fedeff.audit.judging.trial import Rows, Score
from fedeff.audit.matrix_result import read_matrix
from fedeff.audit.result import configuration_of, hash_of, read_result
from fedeff.errors import AuditError


def test_a_result_comes_back_whole(tmp_path):
    result = full_audit()
    (tmp_path / "audit.json").write_bytes(result.to_json())
    back = read_result(tmp_path / "audit.json")
    assert back == result
    assert back.trials[0].samples.original.array.dtype == np.float32
    assert json.loads(result.to_json())["schema"] == "fedeff-audit/1"


def test_a_matrix_comes_back_whole(tmp_path):
    (tmp_path / "matrix.json").write_bytes(matrix().to_json())
    assert read_matrix(tmp_path / "matrix.json") == matrix()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "fedeff-audit/2"}, "this version reads 'fedeff-audit/1'"),
        ({"schema": None}, "has schema None"),
        ({"trials": 3}, "is not the record of an audit"),
        ({"threat": "friendly"}, "is not the record of an audit"),
        ({"configuration": {"batch-size": 2}}, "its hash differs"),
    ],
)
def test_another_record_is_refused(tmp_path, change, message):
    content = json.loads(full_audit(count=1).to_json()) | change
    (tmp_path / "audit.json").write_text(json.dumps(content))
    with pytest.raises(AuditError, match=message):
        read_result(tmp_path / "audit.json")


def test_text_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "audit.json").write_text("FAIL")
    with pytest.raises(AuditError, match="run the audit again"):
        read_result(tmp_path / "audit.json")
    with pytest.raises(AuditError, match="run it again"):
        read_matrix(tmp_path / "audit.json")


def test_the_hash_is_that_of_settings_on_any_machine():
    here = configuration_of({"batch-size": 1, "data-folder": "/srv/patients", "run-folder": ""})
    there = configuration_of({"run-folder": "", "data-folder": "/mnt/data", "batch-size": 1})
    assert here == there == {"batch-size": 1, "data-folder": "(named)", "run-folder": ""}
    assert hash_of(here) == hash_of(there) != hash_of({**here, "batch-size": 2})
    assert len(hash_of(here)) == 64


def test_redacting_takes_samples_and_leaves_numbers():
    result = full_audit()
    bare = result.redacted()
    kept = bare.trials[0].samples
    assert kept.original is kept.rebuilt is kept.control is None
    assert kept.rebuilt_psnr_db == result.trials[0].samples.rebuilt_psnr_db
    assert [t.attempts for t in bare.trials] == [t.attempts for t in result.trials]
    assert bare.verdict == result.verdict
    assert bare.is_redacted


@pytest.mark.parametrize(
    ("dataset", "folder", "public"),
    [
        ("digits", "", True),
        ("auto", "", True),
        ("fashion-mnist", "/data", True),
        ("shakespeare", "", True),
        ("shakespeare", "/plays", False),
        ("hospital", "", False),
        ("", "", False),
    ],
)
def test_only_public_data_may_be_shown(dataset, folder, public):
    configuration = configuration_of({"data-folder": folder})
    result = audit([trial(image_score())], dataset=dataset, configuration=configuration)
    assert result.bundled is public


def test_rows_are_kept_to_the_bit():
    pixels = np.random.default_rng(0).random((2, 1, 3, 3)).astype(np.float32)
    assert np.array_equal(Rows.of(pixels).array, pixels)
    assert Rows.of(np.array([[1, -1]])).array.tolist() == [[1, -1]]
    with pytest.raises(AuditError, match="expected 4 bytes a number"):
        Rows((2, 2), "pixels", b"123")


def test_scores_are_checked():
    with pytest.raises(AuditError, match="give one of each a row"):
        Score(rows=2, psnr_db=(9.0,), floor_psnr_db=(8.0,))
    with pytest.raises(AuditError, match="2 of 1 rows identified"):
        Score(rows=1, tested=1, identified=2)


def test_the_exit_code_is_the_verdicts():
    assert full_audit().exit_code == 1
    assert audit([trial(image_score(9.0))]).exit_code == 2
    assert replace(full_audit(), is_redacted=True).exit_code == 1


def test_a_cell_outside_of_the_matrix_is_refused():
    made = matrix()
    with pytest.raises(AuditError, match="of which the matrix has none"):
        replace(made, attacks=made.attacks[1:])
