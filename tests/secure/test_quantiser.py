"""Fixed point: exact sums, a proof that nothing overflows, and weighted means that come out."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError, SecureAggregationError
from fedeff.core.field import PRIME
from fedeff.secure import Quantiser, most_fraction_bits
from fedeff.secure.plan import Plan
from fedeff.strategies.spread import SpreadSum, SpreadTotal
from fedeff.strategies.weighted_sum import Update

CLIPS = st.floats(1e-3, 1e4)


@given(clip=CLIPS, clients=st.integers(1, 1000), examples=st.integers(1, 10_000))
def test_the_most_bits_are_possible_and_one_more_could_overflow(clip, clients, examples):
    bits = most_fraction_bits(clip, clients, examples)
    largest = Quantiser(clip, bits, clients, examples)
    peak = largest.quantised("x", np.array([clip, -clip]), examples)
    for element, sign in zip(peak.tolist(), (1, -1), strict=True):
        total = element * clients % PRIME  # every client at its largest, of one sign
        assert largest.sum_of(np.array([total]))[0] * sign > 0
    if clients * Fraction(clip) * examples * Fraction(2) ** (bits + 1) > PRIME // 2:
        with pytest.raises(ConfigError, match="could overflow a sum"):
            Quantiser(clip, bits + 1, clients, examples)


def test_overflow_is_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="take at most 10 fraction bits"):
        Quantiser(8.0, 11, 100, 1000)
    with pytest.raises(ConfigError, match="more than 1073741823 in all"):
        Quantiser(1e-9, 0, 10**6, 10**4)
    with pytest.raises(ConfigError, match="numbers above 0"):
        Quantiser(0.0, 4, 10, 10)


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.integers(1, 500), min_size=1, max_size=8),
    clip=st.sampled_from([0.5, 3.0, 16.0]),
)
@settings(max_examples=40)
def test_weighted_means_come_out_within_half_a_step_of_each_client(seed, weights, clip):
    rng = np.random.default_rng(seed)
    quantiser = Quantiser(clip, most_fraction_bits(clip, len(weights), 500), len(weights), 500)
    values = rng.uniform(-clip, clip, (len(weights), 6))
    total = sum(quantiser.quantised("x", x, w) for x, w in zip(values, weights, strict=True)) % PRIME
    mean = quantiser.sum_of(total) / sum(weights)
    step = 2.0**-quantiser.fraction_bits
    assert np.abs(mean - np.average(values, axis=0, weights=weights)).max() <= len(weights) * step / sum(
        weights
    )


@given(
    clients=st.integers(1, 2000), numbers=st.lists(st.integers(1 - 2**60, 2**60 - 1), min_size=1, max_size=4)
)
def test_wide_numbers_add_up_exactly_over_all_clients(clients, numbers):
    quantiser = Quantiser(1.0, 0, clients, 1)
    one = quantiser.split(np.array(numbers))
    assert one.size == len(numbers) * quantiser.digits
    total = np.array([element * clients % PRIME for element in one.tolist()])
    assert quantiser.joined(total) == [number * clients for number in numbers]


def test_values_beyond_the_clip_and_nan_are_refused_by_name():
    quantiser = Quantiser(2.0, 4, 3, 10)
    for worst in (2.1, -3.0, np.nan, np.inf):
        with pytest.raises(SecureAggregationError, match=r"array 'w' holds .* expected at most 2"):
            quantiser.quantised("array 'w'", np.array([0.0, worst]), 1)


def plan_of(*, clients: int = 3, spreads: bool = True, codec: str = "") -> Plan:
    arrays = (("w", (2, 3), "<f4"), ("n", (2,), "<i8"), ("b", (4,), "<f8"))
    return Plan(arrays, 4.0, 8, clients, 100, 1, metrics=("loss", "steps"), spreads=spreads, codec=codec)


def updates(rng: np.random.Generator, clients: int) -> list[Update]:
    return [
        Update(
            float(rng.integers(1, 100)),
            {
                "w": rng.uniform(-4, 4, (2, 3)).astype(np.float32),
                "n": rng.integers(-(2**40), 2**40, 2),
                "b": rng.uniform(-1, 1, 4),
            },
            {"loss": float(rng.normal()), "unknown": 5.0} | ({"steps": 7} if client else {"steps": 1e300}),
        )
        for client in range(clients)
    ]


@given(seed=st.integers(0, 2**32), clients=st.integers(1, 4))
@settings(max_examples=30)
def test_a_plans_total_is_the_sum_of_the_quantised_updates(seed, clients):
    plan, found = plan_of(clients=4), updates(np.random.default_rng(seed), clients)
    vectors = [plan.vector(update, {}) for update in found]
    assert {len(vector) for vector in vectors} == {plan.size()}
    total = plan.total(np.mod(sum(vectors), PRIME), {})
    weights = [update.weight for update in found]
    assert total.weight == sum(weights)
    rounded = [
        {k: np.rint(u.arrays[k].astype(np.float64) * u.weight * 2**8) / 2**8 for k in ("w", "b")}
        for u in found
    ]
    for key in ("w", "b"):
        assert total.sums[key].tolist() == sum(one[key] for one in rounded).tolist()
    exact = sum(np.array(u.arrays["n"].tolist(), object) * int(u.weight) for u in found)
    assert total.sums["n"].tolist() == [float(x) for x in exact]
    assert total.metrics["loss"][0] == pytest.approx(
        sum(u.metrics["loss"] * u.weight for u in found), abs=1e-5
    )
    assert total.metrics.get("steps", (0, 0)) == (
        (pytest.approx(7 * sum(weights[1:])), sum(weights[1:])) if clients > 1 else (0, 0)
    )
    assert "unknown" not in total.metrics


def test_spreads_are_those_of_the_quantised_values_to_many_digits():
    """Against `SpreadSum` over what the elements stand for."""
    rng = np.random.default_rng(5)
    plan, found = plan_of(clients=4), updates(rng, 4)
    for one in found:  # close together, far from zero: where a difference of squares loses digits
        one.arrays["w"][:] = 3 + one.arrays["w"] / 400
    total = plan.total(np.mod(sum(plan.vector(update, {}) for update in found), PRIME), {})
    naive: SpreadTotal | None = None
    for one in found:
        stood = {
            k: np.rint(one.arrays[k].astype(np.float64) * one.weight * 2**8) / 2**8 / one.weight
            for k in ("w", "b")
        }
        naive = SpreadSum(()).empty() if naive is None else naive
        SpreadSum(()).add_arrays(naive, Update(one.weight, stood, {}))
        naive.weight += one.weight
    assert naive is not None
    for key in ("w", "b"):
        assert total.spreads[key] == pytest.approx(naive.spreads[key], rel=1e-8)


def test_updates_that_a_plan_cannot_hold_are_refused():
    plan, (one,) = plan_of(), updates(np.random.default_rng(0), 1)
    with pytest.raises(SecureAggregationError, match=r"weighs 2\.5 by 'num-examples'"):
        plan.vector(Update(2.5, one.arrays, {}), {})
    with pytest.raises(SecureAggregationError, match="set a larger secure-max-examples"):
        plan.vector(Update(101, one.arrays, {}), {})
    with pytest.raises(SecureAggregationError, match="array 'n' of int64 holds numbers too large"):
        plan.vector(Update(3, {**one.arrays, "n": np.array([2**59, 0])}, {}), {})
    with pytest.raises(SecureAggregationError, match="array 'b' holds 9, expected at most 4"):
        plan.vector(Update(3, {**one.arrays, "b": np.full(4, 9.0)}, {}), {})
