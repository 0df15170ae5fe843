"""Lagrange coded computing: exact for every pattern, deaf to liars, silent about the inputs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.codes.lagrange import Lagrange
from fedeff.codes.patterns import erasure_patterns
from fedeff.codes.reed_solomon import trusted_workers
from fedeff.core.errors import CodeError, ConfigError, FieldError
from fedeff.core.field import PRIME, add, lagrange_matrix, multiply, null_vector, power, random_elements
from fedeff.core.rng import generator


def polynomial(x: np.ndarray, degree: int) -> np.ndarray:
    """`x_0^degree + 5 x_1 + 3`, from a trailing (2, ...)."""
    three = np.full_like(x[:, 0], 3)
    return add(add(power(x[:, 0], degree), multiply(np.full_like(three, 5), x[:, 1])), three)


def group(code: Lagrange, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The truth, (k, 3), and what all workers answer."""
    rng = generator(seed, purpose="group")
    inputs = random_elements(rng, (code.k, 2, 3))
    tasks = code.encode(inputs, rng)
    if code.systematic:
        tasks = np.concatenate([inputs, tasks])
    return polynomial(inputs, code.degree), polynomial(tasks, code.degree)


@given(k=st.integers(1, 4), degree=st.integers(1, 3), private=st.integers(0, 2), extra=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_every_pattern_of_enough_answers_is_exact(k, degree, private, extra):
    need = (k + private - 1) * degree + 1
    code = Lagrange(k, need - k + extra, degree, private)
    truth, answers = group(code)
    n = k + code.r
    assert code.threshold == need
    assert len(answers) == n
    for mask in erasure_patterns(n, n, limit=70, rng=generator(1, purpose="masks")):
        enough = mask.sum() >= need or (private == 0 and mask[:k].all())
        assert code.decodable(mask) == enough
        garbage = np.where(mask[:, None], answers, -7)
        if enough:
            assert np.array_equal(code.decode(garbage, mask).values, truth)
        else:
            with pytest.raises(CodeError, match="cannot decode"):
                code.decode(garbage, mask)


@pytest.mark.parametrize(("k", "r", "degree", "private", "byzantine"), [(3, 7, 1, 1, 2), (2, 6, 2, 0, 2)])
def test_every_set_of_liars_is_corrected_in_every_pattern(k, r, degree, private, byzantine):
    code = Lagrange(k, r, degree, private, byzantine)
    truth, answers = group(code)
    n, rng = k + r, generator(2, purpose="lies")
    masks = [mask for mask in erasure_patterns(n, n, limit=999, rng=rng) if mask.sum() == code.threshold]
    for mask in (*masks[::20], np.ones(n, bool)):
        for liars in itertools.combinations(np.flatnonzero(mask), byzantine):
            lied = answers.copy()
            lied[liars[0], 0] = rng.integers(-(2**62), 2**62)  # one in one place, one everywhere
            lied[liars[1]] = random_elements(rng, 3)
            decoded = code.decode(lied, mask)
            assert np.array_equal(decoded.values, truth)
            assert decoded.quality.tolist() == [1.0] * k


@given(seed=st.integers(0, 2**32 - 1), wrong=st.integers(2, 4))
@settings(max_examples=30)
def test_more_liars_than_are_corrected_are_an_error(seed, wrong):
    code = Lagrange(3, 6, byzantine=1)  # nine answers, three coefficients: up to five wrong ones are seen
    _, answers = group(code, seed)
    rng = generator(seed, purpose="liars")
    liars = rng.choice(9, wrong, replace=False)
    answers[liars] = add(answers[liars], rng.integers(1, PRIME, (wrong, 3)))
    with pytest.raises(CodeError, match=r"wait for more answers, raise `byzantine`"):
        code.decode(answers, np.ones(9, bool))


def test_liars_who_agree_on_another_polynomial_are_seen_as_far_as_can_be():
    code = Lagrange(2, 5, byzantine=1)
    truth, answers = group(code)
    _, others = group(code, seed=9)
    mask = np.ones(7, bool)
    for count in range(8):
        mixed = np.concatenate([others[:count], answers[count:]])
        if count in (0, 1):
            assert np.array_equal(code.decode(mixed, mask).values, truth)
        elif count <= 4:  # 7 answers - 2 coefficients - 1 corrected
            with pytest.raises(CodeError, match="no polynomial's"):
                code.decode(mixed, mask)


@given(seed=st.integers(0, 2**32 - 1), wrong=st.integers(3, 7))
@settings(max_examples=20)
def test_random_lies_beyond_the_limit_are_seen_without_an_answer_to_spare(seed, wrong):
    code = Lagrange(3, 4, byzantine=2)
    _, answers = group(code, seed)
    answers[:wrong] = random_elements(generator(seed, purpose="lies"), (wrong, 3))
    with pytest.raises(CodeError, match="leaving out 2"):
        code.decode(answers, np.ones(7, bool))


def test_without_byzantine_an_answer_too_many_that_does_not_fit_is_an_error():
    code = Lagrange(2, 2)
    _, answers = group(code)
    answers[3] += 1
    with pytest.raises(CodeError, match="leaving out 0"):
        code.decode(answers, np.ones(4, bool))


def test_each_liar_may_lie_in_a_column_of_its_own():
    code = Lagrange(2, 8, byzantine=4)
    truth, answers = group(code)
    answers[[1, 4, 8], [0, 1, 2]] ^= 1
    answers[9] = 0
    assert np.array_equal(code.decode(answers, np.ones(10, bool)).values, truth)


@given(errors=st.integers(0, 3), spare=st.integers(0, 3), d=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_trusted_workers_are_those_that_did_not_lie(errors, spare, d, seed):
    rng = generator(seed, purpose="words")
    workers = 2 + 2 * errors + spare
    points = rng.choice(PRIME, workers, replace=False)
    values = random_elements(rng, (2, d))
    answers = add(values[0], multiply(points[:, None], values[1]))
    liars = rng.choice(workers, rng.integers(0, errors + 1), replace=False)
    answers[liars, rng.integers(0, d, len(liars))] ^= 1
    honest = np.setdiff1d(np.arange(workers), liars)
    assert np.array_equal(trusted_workers(points, answers, 2, errors), honest)


@pytest.mark.parametrize(("k", "private"), [(2, 1), (2, 2), (3, 3)])
def test_what_any_private_workers_hold_is_as_likely_for_any_inputs(k, private):
    """Each set's noise goes through an invertible matrix, so what it holds is uniform."""
    points = np.arange(k + private)
    workers = np.arange(k + private, 2 * (k + private) + 2)
    noise = lagrange_matrix(points, workers)[:, k:]
    code = Lagrange(k, len(workers) - k, private=private)
    assert not np.isin(code._worker_points, points).any()
    assert np.array_equal(code._worker_points, workers)
    for held in itertools.combinations(range(len(workers)), private):
        assert null_vector(noise[list(held)]) is None


def test_privacy_draws_anew_each_time_and_what_is_decoded_does_not_depend_on_it():
    code, inputs = Lagrange(2, 2, private=1), np.arange(6).reshape(2, 3)
    one, other = code.encode(inputs), code.encode(inputs)
    assert not np.array_equal(one, other)
    for tasks in (one, other):
        assert np.array_equal(code.decode(tasks, np.array([0, 1, 1, 1], bool)).values, inputs)


def test_systematic_codes_hand_out_inputs_and_give_back_own_answers():
    code = Lagrange(2, 1)
    assert code.systematic
    assert code.encode(np.array([[1], [4]])).tolist() == [[7]]  # the line through (0, 1) and (1, 4)
    outputs = np.array([5, 6, 7], np.uint8)
    assert code.decode(outputs, np.array([True, True, False])).values.tolist() == [5, 6]
    assert code.decode(outputs, np.array([True, False, True])).values.tolist() == [5, 6]


def test_what_is_not_of_the_field_is_refused():
    code = Lagrange(2, 1)
    with pytest.raises(FieldError, match="write floats with `to_field`"):
        code.encode(np.ones((2, 3)))
    with pytest.raises(CodeError, match="outputs of float64"):
        code.decode(np.ones((3, 3)), np.ones(3, bool))
    with pytest.raises(ConfigError, match=r"5 workers, expected at least 9 .* set r to 7 or more"):
        Lagrange(2, 3, degree=2, private=1, byzantine=2)
    with pytest.raises(ConfigError, match="degree is 0, expected a whole number from 1"):
        Lagrange(2, 3, degree=0)
