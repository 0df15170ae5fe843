"""Rounds through a PrivateGrid: what a strategy gets, what goes on record, what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.app.run import Plan, simulate
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError, PrivacyError
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.rng import generator
from fedeff.grids.passing import PassingGrid
from fedeff.secure.privacy import GaussianSum, Participation, PrivateGrid, epsilon_of
from fedeff.strategies import build

NODES = (11, 12, 13, 14)
MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}


@pytest.fixture(scope="module", autouse=True)
def _task_identity() -> None:
    """Messages can be made, as under `flwr run`."""
    set_task_identity(1)


class Answering(Grid):
    """Nodes that answer at once: with the model moved by an own update, of which one may be broken."""

    def __init__(self, broken: dict[int, str] | None = None) -> None:
        self.broken = broken or {}

    def get_node_ids(self):
        return list(NODES)

    def send_and_receive(self, messages, *, timeout=None):
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        arrays = {key: values + update_of(node)[key] for key, values in MODEL.items()}
        if self.broken.get(node) == "nan":
            arrays["b"] = np.full(2, np.nan, np.float32)
        if self.broken.get(node) == "shape":
            arrays["b"] = np.zeros(3, np.float32)
        metrics = MetricRecord({"num-examples": 10 * node, "partition-id": node - 11, "loss": 0.5})
        return Message(RecordDict({"arrays": encode_record(arrays), "metrics": metrics}), reply_to=message)

    set_run = run = create_message = push_messages = pull_messages = get_nodes = None


def update_of(node: int) -> dict[str, np.ndarray]:
    rng = generator(node, purpose="update")
    return {key: (node - 10) * rng.normal(size=v.shape).astype(np.float32) for key, v in MODEL.items()}


def after_a_round(grid: Grid, strategy: str = "fedavg") -> tuple[ArrayRecord, MetricRecord, object]:
    made = build(strategy, {"cohort": len(NODES), "fold": "workers"})
    model = encode_record(MODEL)
    messages = made.configure_train(1, model, ConfigRecord(), grid)
    merged, metrics = made.aggregate_train(1, grid.send_and_receive(messages))
    return merged, metrics, made


def private(grid: Grid, clip: float = 2.0, noise: float = 0.0, **options) -> PrivateGrid:
    return PrivateGrid(grid, GaussianSum(clip, noise), Participation(noise, 1e-5), **options)


def naive(clip: float, nodes=NODES) -> dict[str, np.ndarray]:
    """The model moved by the sum of clipped updates over the number of all that were asked."""
    moved = {key: values.astype(np.float64) for key, values in MODEL.items()}
    for node in nodes:
        own = {key: (MODEL[key] + update_of(node)[key]).astype(np.float64) - MODEL[key] for key in MODEL}
        length = math.sqrt(sum((v**2).sum() for v in own.values()))
        for key in moved:
            moved[key] += min(1.0, clip / length) * own[key] / len(NODES)
    return moved


def test_clients_count_alike_whatever_number_of_examples_they_tell():
    merged, metrics, strategy = after_a_round(private(Answering(), clip=2.0))
    for key, values in decode_record(merged).items():
        np.testing.assert_allclose(values, naive(2.0)[key], rtol=1e-6)
    assert dict(metrics) == {}
    assert strategy.refused == ()


def test_who_answers_with_nonsense_counts_as_an_update_of_zero():
    merged, _, strategy = after_a_round(private(Answering({12: "nan", 14: "shape"})))
    for key, values in decode_record(merged).items():
        np.testing.assert_allclose(values, naive(2.0, nodes=(11, 13))[key], rtol=1e-6)
    assert [one.node_id for one in strategy.refused] == [12, 14]


def test_a_seed_repeats_the_noise_and_secret_noise_never_repeats():
    def released(**options) -> np.ndarray:
        return decode_record(after_a_round(private(Answering(), noise=1.0, **options))[0])["w"]

    assert np.array_equal(released(noise_seed=3), released(noise_seed=3))
    assert not np.array_equal(released(noise_seed=3), released(noise_seed=4))
    assert not np.array_equal(released(), released())


def test_a_round_beyond_the_budget_is_not_sent():
    grid = private(Answering(), noise=1.0, max_epsilon=epsilon_of(1.0, 2, 1e-5))
    after_a_round(grid)
    after_a_round(grid)
    assert grid.measures == {"epsilon": epsilon_of(1.0, 2, 1e-5)}
    with pytest.raises(PrivacyError, match="max-epsilon"):
        after_a_round(grid)
    assert grid.account.most == 2


@pytest.mark.parametrize(
    ("strategy", "said"),
    [("fedlama", "more of the replies than their weighted sum"), ("hierarchical", "weighted sum")],
)
def test_a_strategy_that_looks_at_single_updates_is_refused(strategy, said):
    with pytest.raises(PrivacyError, match=said):
        after_a_round(private(Answering(), noise=1.0), strategy)


def test_pushed_messages_and_evaluations_are_refused():
    grid = private(Answering(), noise=1.0)
    with pytest.raises(PrivacyError, match="pushed"):
        grid.push_messages([])
    strategy = build("fedavg", {"cohort": 4, "evaluate-clients": 2})
    messages = strategy.configure_evaluate(1, encode_record(MODEL), ConfigRecord(), grid)
    with pytest.raises(PrivacyError, match="evaluate-clients=0"):
        grid.send_and_receive(messages)


def plan_of(**changes) -> Plan:
    given = {"dataset": "digits", "model": "mlp", "cohort": 4, "num_server_rounds": 3, "local_steps": 2}
    settings = Settings(**{**given, "noise_multiplier": 1.0, "privacy_noise": "seeded", **changes})
    return Plan(settings, Runtime(clients=8, engine="inline")).checked()[0]


def test_a_run_records_its_epsilon_and_nothing_that_clients_say_of_themselves(tmp_path: Path):
    rounds = simulate(plan_of(), tmp_path / "run").rounds()
    epsilons = [record.measures["epsilon"] for record in rounds if record.server_round]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == epsilon_of(1.0, 1, 1e-5)
    assert [(record.train_metrics, record.worst_tenth) for record in rounds] == [({}, {})] * len(rounds)


def test_a_run_stops_when_its_budget_is_spent(tmp_path: Path):
    limit = epsilon_of(1.0, 1, 1e-5) + 0.1
    summary = simulate(plan_of(cohort=8, max_epsilon=limit), tmp_path / "run").summary()
    assert (summary.status, summary.rounds) == ("stopped", 1)
    assert "max-epsilon" in summary.reason


def test_settings_that_would_reveal_more_are_refused():
    with pytest.raises(ConfigError, match="evaluate-clients = 2 with noise-multiplier"):
        plan_of(evaluate_clients=2)
    with pytest.raises(ConfigError, match="codec-shared-scale"):
        plan_of(codec="tern_grad", codec_shared_scale=True)


def test_wrappers_beneath_are_passed_on_to():
    assert private(PassingGrid(Answering())).get_node_ids() == list(NODES)
