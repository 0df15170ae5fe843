import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.clients import LocalTraining
from fedeff.clients.training import batches
from fedeff.core.errors import ConfigError, FedeffError


@given(samples=st.integers(1, 40), size=st.integers(1, 12), epochs=st.integers(1, 3))
def test_every_epoch_visits_every_sample_once(samples: int, size: int, epochs: int) -> None:
    training = LocalTraining(epochs=epochs, batch_size=size)
    plan = list(batches(samples, training, np.random.default_rng(0)))
    assert len(plan) == training.step_count(samples)
    assert max(map(len, plan)) <= size
    rows = np.concatenate(plan).reshape(epochs, samples)
    assert (np.sort(rows, axis=1) == np.arange(samples)).all()


@given(samples=st.integers(1, 40), size=st.integers(1, 12), steps=st.integers(1, 9))
def test_steps_end_where_asked_and_are_a_prefix_of_epochs(samples: int, size: int, steps: int) -> None:
    some = list(batches(samples, LocalTraining(steps=steps, batch_size=size), np.random.default_rng(1)))
    many = list(batches(samples, LocalTraining(epochs=9, batch_size=size), np.random.default_rng(1)))
    assert len(some) == steps == LocalTraining(steps=steps, batch_size=size).step_count(samples)
    assert all(np.array_equal(a, b) for a, b in zip(some, many, strict=False))


def test_the_generator_decides_the_order() -> None:
    first, again, other = (
        np.concatenate(list(batches(30, LocalTraining(), np.random.default_rng(seed)))).tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_client_without_samples_cannot_train() -> None:
    with pytest.raises(ConfigError, match="without samples"):
        list(batches(0, LocalTraining(), np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "local-epochs is 0"),
        ({"epochs": 1.5}, "local-epochs is 1.5"),
        ({"steps": -1}, "local-steps is -1"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"batch_size": True}, "batch-size is True"),
        ({"learning_rate": 0}, "learning-rate is 0"),
        ({"learning_rate": float("nan")}, "learning-rate is nan"),
        ({"learning_rate": "fast"}, "learning-rate is 'fast'"),
        ({"weight_decay": -0.1}, "weight-decay is -0.1"),
        ({"prox_mu": float("inf")}, "prox-mu is inf"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"optimizer": "adamv"}, "'adamw'"),
        ({"optimizer": "momentum"}, "set it between 0 and 1"),
        ({"optimizer": "momentum", "momentum": 1.0}, "set it between 0 and 1"),
        ({"momentum": 0.9}, "no effect with optimizer 'sgd'"),
        ({"optimizer": "slim-qn", "momentum": 1.0}, r"momentum is 1\.0; it must be below 1"),
        ({"optimizer": "slimqn"}, "did you mean 'slim-qn'"),
        ({"qn_beta": 1.0}, r"qn-beta is 1\.0; it must be below 1"),
        ({"qn_damping": 0}, "qn-damping is 0; it must be a finite number above 0"),
        ({"qn_damping": 1.0}, r"qn-damping is 1\.0; it must be below 1"),
        ({"qn_beta": -0.1}, r"qn-beta is -0\.1"),
        ({"qn_history": 0}, "qn-history is 0"),
        ({"qn_interval": 2.5}, r"qn-interval is 2\.5"),
        ({"perturbation": "smoothout"}, "did you mean 'smooth-out'"),
        ({"perturbation": 1}, "unknown perturbation '1'"),
        ({"perturbation": "smooth-out", "perturbation_radius": -1}, "perturbation-radius is -1"),
        ({"perturbation_radius": 0.1}, "no effect without a perturbation"),
        ({"autocast": 1}, "autocast is 1"),
        ({"device": "gpu"}, "no torch device"),
    ],
)
def test_impossible_trainings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(FedeffError, match=message):
        LocalTraining(**fields)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"learning-rate": 0.5, "batch-size": 3}, LocalTraining(learning_rate=0.5, batch_size=3, steps=7)),
        ({"local-epochs": 2}, LocalTraining(epochs=2)),
        ({"local-epochs": 2, "local-steps": 5}, LocalTraining(epochs=2, steps=5)),
        ({"local-steps": 4}, LocalTraining(steps=4)),
        ({"prox-mu": 0.1}, LocalTraining(prox_mu=0.1, steps=7)),
        ({"proximal-mu": 0.2}, LocalTraining(prox_mu=0.2, steps=7)),
        (
            {"optimizer": "momentum", "momentum": 0.5},
            LocalTraining(optimizer="momentum", momentum=0.5, steps=7),
        ),
        ({"learning-rate": 0.5, "learning-rate-scale": 0.5}, LocalTraining(learning_rate=0.25, steps=7)),
        ({"learning-rate-scale": 0.5}, LocalTraining(learning_rate=0.025, steps=7)),
        ({"server-round": 3, "a-strategy's-own": 1.0}, LocalTraining(steps=7)),
        (
            {"perturbation": "smooth-out", "perturbation-radius": 0.1},
            LocalTraining(perturbation="smooth-out", perturbation_radius=0.1, steps=7),
        ),
        (
            {"optimizer": "slim-qn", "qn-history": 3, "qn-interval": 5, "qn-beta": 0.9, "qn-damping": 0.3},
            LocalTraining(
                optimizer="slim-qn", qn_history=3, qn_interval=5, qn_beta=0.9, qn_damping=0.3, steps=7
            ),
        ),
    ],
)
def test_a_message_overrides_the_fields_that_it_names(
    config: dict[str, object], expected: LocalTraining
) -> None:
    assert LocalTraining(steps=7).overridden(config) == expected


def test_a_wrong_override_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"batch-size is 2\.5"):
        LocalTraining().overridden({"batch-size": 2.5})
    with pytest.raises(ConfigError, match="learning-rate-scale is 0"):
        LocalTraining().overridden({"learning-rate-scale": 0})


@pytest.mark.parametrize(
    ("fields", "radius"),
    [
        ({}, 0.0),
        ({"perturbation": "smooth-out"}, 0.0375),
        ({"perturbation": "ada-smooth-out"}, 0.15),
        ({"perturbation": "ada-smooth-out", "perturbation_radius": 0.4}, 0.4),
    ],
)
def test_a_perturbation_without_a_radius_has_its_usual_one(fields: dict[str, object], radius: float) -> None:
    assert LocalTraining(**fields).noise_radius == radius
