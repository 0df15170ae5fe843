"""Runs that learn without labels: by settings, with every strategy and codec, and how they are evaluated."""

import logging
import math

import numpy as np
import pytest

from fedeff.app.objectives import CollapseWatch, ProbeEvaluation, evaluation_of, objective_of
from fedeff.app.run import continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of, new_model, shares_of
from fedeff.clients.self_supervision import PersonalSimSiam, SimSiam, labelled_rows
from fedeff.core.errors import ConfigError
from fedeff.core.layers import encode_record
from fedeff.core.records import RoundRecord
from fedeff.core.rng import generator
from fedeff.report.representation import representation_section
from fedeff.report.run import read_run

SSFL = {
    "model": "mlp",
    "projection_width": 16,
    "learning_rate": 0.05,
    "batch_size": 50,
    "probe_labels": 0.1,
}


def measured(records: tuple[RoundRecord, ...]) -> list[tuple[object, ...]]:
    return [(r.accuracy, r.loss, r.measures, r.train_metrics, r.uplink_bytes) for r in records]


@pytest.fixture
def settings():
    return Settings(dataset="digits", objective="simsiam", model="mlp", projection_width=16, probe_labels=0.1)


def test_a_run_tells_probe_neighbours_and_spread_and_its_report_draws_them(tiny, tmp_path):
    plan, _ = tiny(objective="per-ssfl", evaluate_clients=2, num_server_rounds=2, **SSFL).checked()
    rounds = simulate(plan, tmp_path / "run").rounds()
    assert len(rounds) == 2
    for record in rounds:
        assert 0.3 < record.accuracy <= 1
        assert 0.3 < record.measures["knn-accuracy"] <= 1
        assert 0 < record.train_metrics["embedding-std"] < 1 / math.sqrt(16) + 1e-6
        assert -1 <= record.train_metrics["train-loss"] <= 1
        assert {
            "eval-accuracy",
            "eval-knn-accuracy",
            "eval-accuracy-global",
        } <= record.evaluate_metrics.keys()
    section = representation_section(read_run(tmp_path / "run"))
    assert "knn-accuracy" in section.intro
    assert section.pictures[0].title == "knn-accuracy"
    assert "Features" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("no_report")
def test_a_personal_model_changes_nothing_for_the_server(tiny, tmp_path):
    """Bytes up and down, the global model and what is measured of it are those of SimSiam alone."""
    found = {}
    for objective in ("simsiam", "per-ssfl"):
        plan, _ = tiny(objective=objective, **SSFL).checked()
        rounds = simulate(plan, tmp_path / objective).rounds()
        found[objective] = [(*one, r.downlink_bytes) for one, r in zip(measured(rounds), rounds, strict=True)]
    assert found["simsiam"] == found["per-ssfl"]


@pytest.mark.usefixtures("no_report")
def test_a_resumed_run_goes_on_with_the_personal_models(tiny, tmp_path):
    """To the same bits, those of the clients' own evaluation too, which only their state can tell."""
    options = {"objective": "per-ssfl", "evaluate_clients": 2, **SSFL}
    plan, _ = tiny(**options).checked()
    whole = simulate(plan, tmp_path / "whole").rounds()

    def stop(record: RoundRecord) -> None:
        if record.server_round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(plan, tmp_path / "stopped", stop)
    resumed = continue_run(RunFolder(tmp_path / "stopped")).rounds()
    assert measured(resumed) == measured(whole)
    assert [r.evaluate_metrics for r in resumed] == [r.evaluate_metrics for r in whole]
    own = [r.evaluate_metrics["eval-loss"] for r in whole]
    assert len(set(own)) == 3


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "strategy", ["adaptive-update", "delayed", "diloco", "fedbuff", "fedlama", "fedluar"]
)
def test_strategies_of_every_kind_average_such_models(strategy, tiny, tmp_path):
    own = {"buffer": 4} if strategy == "fedbuff" else {}
    options = {**SSFL, **own, "strategy": strategy, "codec": "uniform(8)", "num_server_rounds": 2}
    objective = "simsiam" if strategy == "adaptive-update" else "per-ssfl"
    plan, _ = tiny(objective=objective, evaluate_every=2, **options).checked()
    last = simulate(plan, tmp_path / "run").rounds()[-1]
    assert last.errors == last.refused == 0
    assert last.accuracy > 0.3
    assert last.measures.keys() == {"knn-accuracy"}


def test_the_probe_sees_the_labels_of_its_share_alone(settings):
    dataset = dataset_of(settings)
    evaluation = evaluation_of(settings, new_model(settings), dataset)
    assert isinstance(evaluation, ProbeEvaluation)
    rows = labelled_rows(dataset.labels, 0.1, generator(0, purpose="labelled rows"))
    assert np.array_equal(evaluation.known.x.numpy(), dataset.train.batch(rows)[0])
    assert len(evaluation.known) == pytest.approx(0.1 * len(dataset.train), rel=0.05)
    assert len(evaluation.test) == len(dataset.test)
    state = new_model(settings).state_dict()
    record = encode_record({key: value.numpy() for key, value in state.items()})
    assert evaluation(record) == evaluation(record)


def test_objectives_are_those_of_the_settings(settings):
    assert objective_of(Settings()) is None
    assert objective_of(settings) == SimSiam(probe_labels=0.1)
    own = Settings(objective="per-ssfl", personal_weight=0.3)
    assert objective_of(own) == PersonalSimSiam(probe_labels=0.01, weight=0.3)
    assert shares_of(settings, 5).train  # views are drawn of whatever partition there is


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dataset": "shakespeare", "model": "gru"}, "shakespeare' is text"),
        ({"sparsity": "ssl", "sparsity_rounds": 1}, "only a model of labels"),
        ({"strategy": "two-phase"}, "measures the curvature"),
        ({"strategy": "adaptive-update", "objective": "per-ssfl"}, "a personal model could follow"),
        ({"model": "logistic"}, "no features to learn"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options, complaint, tiny):
    with pytest.raises(ConfigError, match=complaint) as refused:
        tiny(**{"objective": "simsiam", **SSFL, **options}).checked()
    assert "\n" not in str(refused.value)


def test_collapse_is_told_once(caplog, settings):
    seen: list[RoundRecord] = []
    watch = CollapseWatch(seen.append, settings)
    spreads = (0.2, 0.07, 0.05, 0.01)
    with caplog.at_level(logging.WARNING):
        for number, spread in enumerate(spreads, 1):
            watch(RoundRecord(number, train_metrics={"embedding-std": spread}))
        watch(RoundRecord(5))
    assert len(seen) == 5
    assert [record.getMessage()[:8] for record in caplog.records] == ["round 3:"]
