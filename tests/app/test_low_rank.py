"""Runs whose layers are of low rank: what travels, what they begin with, what is refused."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fedeff.app.checkpoints import read_standing
from fedeff.app.run import simulate
from fedeff.app.settings import Settings
from fedeff.app.workload import client_model, new_model, resolved
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record, payload_bytes
from fedeff.models import merge

pytestmark = pytest.mark.usefixtures("no_report")

LOW_RANK = {
    "fedpara": {"low_rank": "fedpara", "rank": 2},
    "pfedpara": {"low_rank": "fedpara", "rank": 2, "personal_factors": True, "evaluate_clients": 3},
    "lora": {"low_rank": "lora", "rank": 2, "lora_extras": "biases"},
    "ffa": {"low_rank": "lora", "rank": 2, "lora_freeze_a": True},
}
# fc1 is 64 x 64, fc2 10 x 64: of each 2 (m + n) entries a factor pair, and 74 biases.
ENTRIES = {
    "fedpara": 2 * 2 * (128 + 74) + 74,
    "pfedpara": 2 * (128 + 74) + 74,
    "lora": 2 * (128 + 74) + 74,
    "ffa": 2 * (64 + 10),
}


def run(tiny, path, **changes):
    return simulate(tiny(**({"model": "mlp"} | changes)).checked()[0], path)


def last_model(folder):
    return decode_record(read_standing(max(folder.checkpoints.glob("*.safetensors"))).model)


@pytest.mark.parametrize("kind", LOW_RANK)
def test_what_travels_both_ways_is_what_is_trained_and_nothing_else(kind, tiny, tmp_path):
    folder = run(tiny, tmp_path / kind, **LOW_RANK[kind])
    model = last_model(folder)
    assert sum(values.size for values in model.values()) == ENTRIES[kind]
    message = payload_bytes(encode_record(model))
    assert message < 4 * ENTRIES[kind] + 130 * len(model)
    for record in folder.rounds():
        assert record.parameters == ENTRIES[kind]
        assert (record.errors, record.arrived) == (0, 4)
        assert record.uplink_bytes == record.arrived * message
        assert record.downlink_bytes == record.cohort * message + (kind == "pfedpara") * 3 * message
        assert record.accuracy is not None


def test_fedpara_learns(tiny, tmp_path):
    folder = run(tiny, tmp_path / "run", low_rank="fedpara", num_server_rounds=4, local_epochs=2)
    assert folder.rounds()[-1].accuracy > 0.75


@pytest.mark.parametrize(
    "strategy", ["fedlama", "partial", "diloco", "adaptive-update", "two-phase", "fedbuff"]
)
def test_strategies_take_a_layers_factors_for_one_layer(strategy, tiny, tmp_path):
    own = {
        "two-phase": {"power_iterations": 2, "curvature_clients": 1},
        "fedbuff": {"buffer": 2},
        "partial": {"groups": 2},
    }
    folder = run(
        tiny,
        tmp_path / strategy,
        **LOW_RANK["fedpara"],
        **own.get(strategy, {}),
        strategy=strategy,
        codec="error_feedback(tern_grad)" if strategy == "diloco" else "",
        num_server_rounds=2,
    )
    assert sum(record.errors + record.refused for record in folder.rounds()) == 0


# Weights to begin with


@pytest.fixture
def base(tiny, tmp_path):
    """A run of whole layers, which some are adapted of."""
    return run(tiny, tmp_path / "base", num_server_rounds=2)


def test_a_run_adapts_what_another_came_to(base, tiny, tmp_path):
    changes = {**LOW_RANK["lora"], "initial_weights": str(base.path), "num_server_rounds": 1}
    still = run(tiny, tmp_path / "still", **changes, learning_rate=1e-9)
    assert still.rounds()[-1].accuracy == base.rounds()[-1].accuracy
    adapted = run(tiny, tmp_path / "adapted", **changes, learning_rate=0.05)
    assert adapted.rounds()[-1].loss < base.rounds()[-1].loss
    # And a third one begins with the second's base and adapters in one, as whole layers.
    third = settings_of(initial_weights=str(adapted.path))
    folded = settings_of(**changes)
    module = new_model(folded)
    module.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in last_model(adapted).items()})
    for key, values in merge(module).state_dict().items():
        assert torch.equal(values, new_model(third).state_dict()[key]), key


def settings_of(**changes):
    return resolved(Settings(dataset="digits", model="mlp", **changes))[0]


def test_clients_load_the_weights_that_they_adapt_and_no_others(base):
    trained = last_model(base)["fc1.weight"]
    adapted = settings_of(initial_weights=str(base.path), low_rank="lora")
    assert np.array_equal(client_model(adapted).fc1.weight_base.numpy(), trained)
    plain = settings_of(initial_weights=str(base.path))
    assert np.array_equal(new_model(plain).fc1.weight.detach().numpy(), trained)
    assert not np.array_equal(client_model(plain).fc1.weight.detach().numpy(), trained)


def test_weights_come_from_checkpoints_and_files_too(base, tmp_path):
    trained = last_model(base)
    save_file(trained, tmp_path / "own.safetensors")
    for place in (max(base.checkpoints.glob("*.safetensors")), tmp_path / "own.safetensors"):
        model = new_model(settings_of(initial_weights=str(place)))
        assert all(np.array_equal(values.numpy(), trained[key]) for key, values in model.state_dict().items())


def test_weights_that_are_not_there_or_do_not_fit_are_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"another model's: fc\.weight, fc\.bias, fc1\.weight"):
        new_model(resolved(Settings(dataset="digits", model="logistic", initial_weights=str(base.path)))[0])
    with pytest.raises(ConfigError, match="cannot be read"):
        new_model(settings_of(initial_weights=str(tmp_path / "nowhere")))
    for path in base.checkpoints.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="without a readable checkpoint"):
        new_model(settings_of(initial_weights=str(base.path)))


def test_adapters_on_random_weights_come_with_a_notice():
    _, notices = resolved(Settings(dataset="digits", model="mlp", low_rank="lora"))
    assert any("initial-weights" in notice for notice in notices)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 3}, "rank = 3 has no effect without low-rank"),
        (
            {"low_rank": "fedpara", "lora_alpha": 2.0},
            "lora-alpha = 2.0 has no effect without low-rank = 'l",
        ),
        ({"low_rank": "lora", "personal_factors": True}, "no effect without low-rank = 'fedpara'"),
        (
            {"low_rank": "fedpara", "sparsity": "ssl"},
            "sparsity = 'ssl', which needs layers with",
        ),
        ({"low_rank": "lora", "objective": "simsiam"}, "objective = 'simsiam', which needs"),
        ({"low_rank": "fedpara", "initial_weights": "x"}, "factors are drawn"),
        ({"low_rank": "lora", "lora_extras": "bias"}, "lora-extras"),
        (
            {"low_rank": "fedpara", "personal_factors": True, "strategy": "adaptive-update"},
            "no steps that could train them",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes, said, tiny):
    with pytest.raises(ConfigError, match=said) as refused:
        tiny(model="mlp", **changes).checked()
    assert "\n" not in str(refused.value)
