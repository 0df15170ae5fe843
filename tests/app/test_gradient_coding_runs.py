"""Runs of the built-in app with gradient coding: records, slow clients, resumed runs, refusals."""

import numpy as np
import pytest

from fedeff.app.checkpoints import latest_standing
from fedeff.app.run import continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record
from fedeff.report.measures import measures_section
from fedeff.report.run import read_run

CODED = {"strategy": "gradient-coding", "cohort": 12, "batch_size": 50, "learning_rate": 0.5}


def model_of(folder, last=3):
    return decode_record(latest_standing(folder.checkpoints, last).model)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("code", ["cyclic", "fractional"])
def test_the_step_does_not_depend_on_who_is_missing(tiny, tmp_path, code):
    """Rounds that end with enough answers come to the same model, sooner, with the slowest missing."""
    coded = {**CODED, "code": code, "stragglers": 3, "server_momentum": 0.5, "delays": "pareto:1.2"}
    patient = simulate(tiny(**coded), tmp_path / "all")
    early = simulate(tiny(**coded, wait_for="enough"), tmp_path / "enough")
    for key, values in model_of(patient).items():
        np.testing.assert_allclose(model_of(early)[key], values, rtol=1e-5, atol=1e-5)
    assert patient.summary().missing == 0
    assert early.summary().virtual_s < 0.7 * patient.summary().virtual_s
    assert [record.measures["decode-residual"] < 1e-9 for record in early.rounds()] == [True] * 3
    assert early.rounds()[0].arrived == 9
    assert early.summary().accuracy > 0.3


def test_what_is_decoded_beyond_the_stragglers_is_on_record_and_in_the_report(tiny, tmp_path):
    folder = simulate(tiny(**CODED, delays="pareto:1.2", round_timeout_s=0.3), tmp_path / "run")
    rounds = folder.rounds()
    assert min(record.arrived for record in rounds) < 11
    for record in rounds:
        assert (record.measures["decode-residual"] > 1e-3) == (record.arrived < 11)
        assert record.measures["decode-amplification"] > 0
    section = measures_section(read_run(folder.path))
    assert [picture.title for picture in section.pictures] == ["decode-amplification", "decode-residual"]
    assert "Measures" in folder.report_file.read_text()
    assert "linear probe" not in folder.report_file.read_text()


@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_stopped_and_resumed_comes_to_the_same_bytes(tiny, tmp_path):
    plan = tiny(**CODED, server_momentum=0.9, local_steps=1, num_server_rounds=4)
    whole = simulate(plan, tmp_path / "whole")

    def stopped(record):
        if record.server_round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(plan, tmp_path / "cut", stopped)
    cut = continue_run(RunFolder.open(tmp_path / "cut"))
    assert left_by(cut) == left_by(whole)


def left_by(folder):
    files = {file.name: file.read_bytes() for file in folder.checkpoints.iterdir()}
    return files, [(r.accuracy, r.uplink_bytes_total, r.measures) for r in folder.rounds()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": 4}, "cohort is 4 of 12 clients, but each client is a worker"),
        ({"stragglers": 12}, "stragglers is 12 of 12 clients"),
        ({"stragglers": 4, "code": "fractional"}, "5 does not divide n = 12"),
        ({"code": "cycle"}, "did you mean 'cyclic'"),
        ({"objective": "per-ssfl", "model": "cnn"}, "whose clients take no steps that a personal model"),
        ({"model": "mlp", "low_rank": "fedpara", "personal_factors": True}, "whose clients take no steps"),
    ],
)
def test_what_cannot_run_is_refused_before_the_run_in_one_line(changes, message, tiny):
    with pytest.raises(ConfigError, match=message) as refused:
        tiny(**(CODED | changes)).checked()
    assert "\n" not in str(refused.value)
