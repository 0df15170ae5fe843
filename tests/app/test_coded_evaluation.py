"""The server's evaluation on Ray actors under a code: the same score, whoever dies."""

import pytest
import ray

from fedeff.app.coded_evaluation import CodedEvaluation
from fedeff.app.evaluation import Evaluation
from fedeff.app.settings import Settings
from fedeff.codes.replication import Replication
from fedeff.core.errors import ConfigError
from fedeff.core.layers import encode_record
from fedeff.data import load
from fedeff.models import build


@pytest.fixture(scope="module")
def asked():
    """A model, its test rows and its record."""
    dataset = load("digits")
    model = build("mlp", classes=dataset.classes, input_shape=dataset.input_shape)
    return model, dataset.test, encode_record({k: v.numpy() for k, v in model.state_dict().items()})


def test_actors_give_the_score_and_a_dead_one_is_answered_for(cluster, asked):
    model, rows, record = asked
    evaluation = CodedEvaluation(Replication(1, 1))
    try:
        first = evaluation.score(model, rows, record)
        expected = Evaluation(model, rows)(record)
        assert (first.accuracy, first.loss) == (expected.accuracy, pytest.approx(expected.loss, rel=1e-6))
        assert set(first.measures) == {"coded-reconstructed"}
        ray.kill(evaluation.inference.actors[0])
        again = evaluation.score(model, rows, record)
        assert (again.accuracy, again.loss) == (first.accuracy, first.loss)
        assert again.measures["coded-reconstructed"] == 1.0
        assert evaluation.inference.statistics.deaths == 1
        assert evaluation.score(model, rows, record).measures["coded-reconstructed"] < 1.0
    finally:
        evaluation.close()
    assert evaluation.inference.actors == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"coded-eval": "berut:2,1"}, "did you mean 'berrut'"),
        ({"coded-eval": "mds:2"}, "write mds:K,R"),
        ({"coded-eval": "mds:2,1", "objective": "simsiam"}, "leave one of them out"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_run_config(config)
