"""The Gaussian sum and its account: sensitivity, noise, epsilon between known bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.secure.privacy import GaussianSum, Participation, epsilon_of

SHAPES = {"w": (3, 2), "b": (4,)}


def updates(seed: int, clients: int) -> list[dict[str, np.ndarray]]:
    rng = generator(seed, purpose="updates")
    scales = 10.0 ** rng.uniform(-3, 3, clients)
    return [{key: scale * rng.normal(size=shape) for key, shape in SHAPES.items()} for scale in scales]


def norm(arrays: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(float((values**2).sum()) for values in arrays.values()))


@given(seed=st.integers(0, 2**32 - 1), clients=st.integers(1, 6), clip=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_no_client_moves_the_sum_by_more_than_the_clipping_norm(seed, clients, clip):
    mechanism, given_ = GaussianSum(clip, 0.0), updates(seed, clients)
    rng = generator(seed, purpose="noise")
    whole = mechanism.release(given_, SHAPES, rng)
    for left_out in range(clients):
        rest = mechanism.release(given_[:left_out] + given_[left_out + 1 :], SHAPES, rng)
        assert norm({key: whole[key] - rest[key] for key in SHAPES}) <= clip * (1 + 1e-9)


@given(seed=st.integers(0, 2**32 - 1), clip=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_a_clipped_update_points_where_it_did_and_a_short_one_stays(seed, clip):
    update = updates(seed, 1)[0]
    scale = min(1.0, clip / norm(update))
    for key, values in GaussianSum(clip, 0.0).clipped(update).items():
        np.testing.assert_allclose(values, scale * update[key], rtol=1e-12)


def test_the_noise_is_the_multiple_of_the_clipping_norm_on_every_entry():
    noise = GaussianSum(0.5, 3.0).release([], {"w": (200_000,)}, generator(1, purpose="noise"))["w"]
    assert abs(noise.mean()) < 4 * 1.5 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize(("noise", "releases"), [(0.7, 1), (1.0, 10), (4.0, 100)])
def test_epsilon_lies_between_the_exact_one_and_that_of_concentrated_privacy(noise, releases):
    """Below by Balle & Wang (arXiv:1805.06530, theorem 8), above by Bun & Steinke (arXiv:1605.02065, 1.3)."""
    delta, rho = 1e-5, releases / (2 * noise**2)
    upper = rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert exact_epsilon(noise / math.sqrt(releases), delta) <= epsilon_of(noise, releases, delta) <= upper


def exact_epsilon(noise: float, delta: float) -> float:
    """Of one Gaussian release, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        a, b = 1 / (2 * noise), middle * noise
        # Where the second factor overflows, the product is far below any delta of interest.
        second = math.exp(min(middle, 700.0)) * phi(-a - b) if phi(-a - b) > 0 else 0.0
        low, high = (middle, high) if phi(a - b) - second > delta else (low, middle)
    return high


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_without_noise_nothing_is_private_and_without_releases_everything():
    assert epsilon_of(0.0, 1, 1e-5) == math.inf
    assert epsilon_of(0.0, 0, 1e-5) == 0.0


def test_the_client_that_was_asked_most_often_counts():
    account = Participation(1.0, 1e-5)
    for nodes in ([1, 2], [2, 3], [2, 4]):
        account.ask(nodes)
    assert account.most == 3
    assert account.most_with([5, 6]) == 3
    assert account.most_with([2, 5]) == 4
    assert account.epsilon == epsilon_of(1.0, 3, 1e-5)


def test_after_a_restart_everybody_may_be_the_one_that_was_asked_most_often():
    account = Participation(1.0, 1e-5)
    for nodes in ([1], [1], [2]):
        account.ask(nodes)
    resumed = Participation(1.0, 1e-5)
    resumed.restore(account.state())
    assert (resumed.most, resumed.releases) == (2, 3)
    resumed.ask([77])
    assert resumed.most == 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GaussianSum(0.0, 1.0), "clipping-norm is 0.0, expected a positive number"),
        (lambda: GaussianSum(1.0, math.nan), "noise-multiplier is nan"),
        (lambda: Participation(1.0, 1.0), "privacy-delta is 1.0"),
    ],
)
def test_impossible_values_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
