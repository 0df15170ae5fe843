"""Runs of the built-in app whose rounds end at a deadline: their records, reports and checkpoints."""

import pytest

from fedeff.app import continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.core.errors import EngineError
from fedeff.report.participation import estimated_of, strip_figure
from fedeff.strategies.missing import ESTIMATORS

SLOW = {"strategy": "deadline", "deadline_s": 0.2, "local_steps": 10, "num_server_rounds": 8, "cohort": 12}


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("missing", ESTIMATORS)
def test_every_estimated_client_is_on_record(missing, tiny, tmp_path):
    folder = simulate(tiny(delays="bimodal:5,0.3", missing=missing, **SLOW), tmp_path / "run")
    rounds = folder.rounds()
    heard: set[int] = set()
    for record in rounds:
        heard |= set(record.participants)
        assert set(record.estimated) <= heard
        assert len(record.estimated) == len(set(record.estimated))
        assert record.virtual_s <= 0.2 + 1e-9
    assert any(record.estimated for record in rounds) == (missing != "drop")
    assert sum(record.missing + record.errors for record in rounds[:-1]) == 0
    assert rounds[-1].accuracy > 0.5


@pytest.mark.usefixtures("no_report")
def test_a_run_that_was_stopped_goes_on_validly(tiny, tmp_path, caplog):
    plan = tiny(delays="bimodal:5,0.3", missing="gram", **SLOW)

    def stop(record):
        if record.server_round == 4:
            raise EngineError("no more")

    with pytest.raises(EngineError):
        simulate(plan, tmp_path / "run", on_round=stop)

    with caplog.at_level("WARNING"):
        rounds = continue_run(RunFolder.open(tmp_path / "run")).rounds()
    assert "messages under way when the run stopped" in caplog.text
    assert [record.server_round for record in rounds] == list(range(1, 9))
    assert rounds[3].estimated == ()  # nobody is known yet
    assert any(record.estimated for record in rounds[4:])


def test_a_report_shows_who_was_estimated(tiny, tmp_path):
    folder = simulate(tiny(delays="bimodal:5,0.3", missing="stale", **SLOW), tmp_path / "run")
    page = folder.report_file.read_text()
    assert "were estimated by the server" in page
    assert "When heard, and when estimated" in page
    rounds = folder.rounds()
    estimated = estimated_of(rounds, 12)
    assert estimated.sum() == sum(len(record.estimated) for record in rounds)
    assert [row.nonzero()[0].tolist() for row in estimated] == [list(r.estimated) for r in rounds]
    plain, both = strip_figure(~estimated), strip_figure(~estimated, 1, estimated)
    assert len(both.axes[0].images) == len(plain.axes[0].images) + 1 == 2
