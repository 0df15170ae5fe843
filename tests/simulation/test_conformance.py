"""One seeded app, every way to run it, the same weights."""

from collections.abc import Callable

import numpy as np
import pytest
from apps import arithmetic, secret_sum
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedProx,
    FedTrimmedAvg,
    Krum,
    Strategy,
)

from fedeff.simulation import run_simulation

CLIENTS = 9

STOCK: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(fraction_train=0.5, fraction_evaluate=0.5),
    "FedAdam": lambda: FedAdam(fraction_train=0.5, fraction_evaluate=0.0),
    "FedProx": lambda: FedProx(fraction_train=0.5, proximal_mu=0.1),
    "Krum": lambda: Krum(fraction_train=0.8, num_malicious_nodes=1),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(fraction_train=0.8, beta=0.2),
    "DP": lambda: DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_train=0.5), noise_multiplier=0.1, clipping_norm=1.0, num_sampled_clients=4
    ),
}


def final_arrays(strategy: Callable[[], Strategy], **options: object) -> dict[str, np.ndarray]:
    result = run_simulation(
        arithmetic.server_app(strategy), arithmetic.client_app, CLIENTS, seed=5, **options
    )
    record = result.context.state["arrays"]
    assert isinstance(record, ArrayRecord)
    return {name: array.numpy() for name, array in record.items()}


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_strategy_gives_the_same_bits_inline_and_on_one_and_two_actors(
    cluster: None, name: str
) -> None:
    inline = final_arrays(STOCK[name], engine="inline")
    assert not np.array_equal(inline["weight"], arithmetic.start_arrays()["weight"].numpy())
    assert_same_bits(inline, final_arrays(STOCK[name], engine="ray", num_actors=1))
    assert_same_bits(inline, final_arrays(STOCK[name], engine="ray", num_actors=2, block_size=2))


def test_a_seed_makes_sampling_repeat_and_another_seed_changes_it(cluster: None) -> None:
    def run(seed: int) -> bytes:
        result = run_simulation(
            arithmetic.server_app(STOCK["FedAvg"]),
            arithmetic.client_app,
            CLIENTS,
            seed=seed,
            engine="inline",
        )
        return result.context.state["arrays"]["weight"].data

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_hand_computed_fedavg(cluster: None) -> None:
    """Full participation: every round adds the mean of (p + 1) / 8 weighted by p + 1."""
    weights = np.arange(1, CLIENTS + 1)
    step = float((weights * weights / 8).sum() / weights.sum())
    final = final_arrays(lambda: FedAvg(), engine="ray")
    np.testing.assert_allclose(final["bias"], 3 * step, rtol=1e-6)


@pytest.mark.slow
def test_two_nodes_of_a_ray_cluster_give_the_same_bits() -> None:
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        two.add_node(num_cpus=1)
        two.wait_for_nodes()
        on_cluster = final_arrays(STOCK["FedAvg"], engine="ray", ray_address=two.address)
    finally:
        two.shutdown()
    assert_same_bits(final_arrays(STOCK["FedAvg"], engine="inline"), on_cluster)


def test_the_legacy_secure_aggregation_workflow_runs_unchanged(cluster: None) -> None:
    """SecAgg+ of Flower: the sum of five clients' `(p + 1) / 8`, twice, up to its quantisation."""
    inline: list[np.ndarray] = []
    run_simulation(secret_sum.server_app(inline), secret_sum.client_app, 5, engine="inline", seed=2)
    np.testing.assert_allclose(inline[0], 2 * 3 / 8, atol=0.01)
    on_ray: list[np.ndarray] = []
    run_simulation(secret_sum.server_app(on_ray), secret_sum.client_app, 5, num_actors=2, seed=2)
    assert [a.tobytes() for a in inline] == [a.tobytes() for a in on_ray]
