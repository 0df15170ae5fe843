"""Field arithmetic is that of Python's whole numbers modulo the prime, for every element and any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedeff.core import field
from fedeff.core.errors import FieldError
from fedeff.core.field import PRIME
from fedeff.core.rng import generator

EDGES = [0, 1, 2, PRIME // 2, PRIME // 2 + 1, PRIME - 2, PRIME - 1]
ELEMENTS = st.one_of(st.sampled_from(EDGES), st.integers(0, PRIME - 1))
VECTORS = arrays.arrays(np.int64, st.integers(0, 6), elements=ELEMENTS)
# Distinct and as far apart as can be, near both ends too.
POINTS = st.lists(ELEMENTS, min_size=1, max_size=7, unique=True)


def rng(seed: int = 0) -> np.random.Generator:
    return generator(seed, purpose="field")


def whole(x: np.ndarray) -> np.ndarray:
    """Python's own numbers, which do not overflow."""
    return np.array(x.tolist(), object).reshape(x.shape)


def same(found: np.ndarray, naive: np.ndarray) -> bool:
    assert found.dtype == np.int64
    return found.tolist() == naive.tolist()


def test_the_prime_is_prime_and_products_fit():
    assert all(PRIME % d for d in range(2, 46_341))  # 46,341^2 is more
    assert 2 * (PRIME - 1) ** 2 < 2**63


@given(a=VECTORS, b=ELEMENTS, exponent=st.integers(0, 2**40))
def test_sums_products_and_powers_are_those_of_whole_numbers(a, b, exponent):
    other = np.full_like(a, b)
    assert same(field.add(a, other), (whole(a) + b) % PRIME)
    assert same(field.subtract(a, other), (whole(a) - b) % PRIME)
    assert same(field.multiply(a, other), (whole(a) * b) % PRIME)
    assert field.power(a, exponent).tolist() == [pow(x, exponent, PRIME) for x in a.tolist()]


@given(a=arrays.arrays(np.int64, (2, 3), elements=ELEMENTS.filter(bool)))
def test_inverses_multiply_to_one(a):
    assert same(field.multiply(a, field.inverse(a)), np.ones_like(a))


def test_zero_has_no_inverse_and_powers_are_not_negative():
    with pytest.raises(FieldError, match="zero has no inverse"):
        field.inverse(np.array([1, 0]))
    with pytest.raises(FieldError, match="take a power of the inverse"):
        field.power(np.array([2]), -1)


@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 140), st.integers(0, 5)),
    seed=st.integers(0, 2**32 - 1),
    near_the_end=st.booleans(),
)
@settings(max_examples=60)
def test_matrix_products_do_not_overflow(shape, seed, near_the_end):
    n, u, d = shape
    low = PRIME - 3 if near_the_end else 0
    a, b = rng(seed).integers(low, PRIME, (n, u)), rng(seed + 1).integers(low, PRIME, (u, d))
    assert same(field.matmul(a, b), whole(a).dot(whole(b)) % PRIME if u else np.zeros((n, d), np.int64))


def test_wide_matrices_are_multiplied_in_blocks_of_columns():
    a, b = np.full((2, 100), PRIME - 1), field.random_elements(rng(), (100, 5000))
    naive = (-sum(whole(row) for row in b)) % PRIME
    assert field.matmul(a, b).tolist() == [naive.tolist()] * 2


@given(points=POINTS, others=st.lists(ELEMENTS, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_interpolation_gives_back_the_polynomial(points, others, seed):
    coefficients = rng(seed).integers(0, PRIME, len(points)).tolist()

    def polynomial(z: int) -> int:
        return sum(c * pow(z, i, PRIME) for i, c in enumerate(coefficients)) % PRIME

    targets = others + points[:1]  # and one that coincides
    matrix = field.lagrange_matrix(np.array(points), np.array(targets))
    values = np.array([[polynomial(z)] for z in points])
    assert matrix.shape == (len(targets), len(points))
    assert field.matmul(matrix, values).ravel().tolist() == [polynomial(z) for z in targets]


def test_interpolation_refuses_equal_points():
    with pytest.raises(FieldError, match="expected distinct ones"):
        field.lagrange_matrix(np.array([1, 2, 1]), np.array([3]))


@given(rows=st.integers(0, 4), columns=st.integers(1, 4), rank=st.integers(0, 4), seed=st.integers(0, 999))
def test_null_vectors_are_found_exactly_where_columns_depend(rows, columns, rank, seed):
    rank = min(rank, rows, columns)
    left, right = (
        rng(seed).integers(0, PRIME, (rows, rank)),
        rng(seed + 1).integers(0, PRIME, (rank, columns)),
    )
    matrix = field.matmul(left, right)
    found = field.null_vector(matrix)
    assert (found is None) == (rank == columns)
    if found is not None:
        assert found.any()
        assert not field.matmul(matrix, found[:, None]).any()


def test_null_vectors_with_zeros_where_a_pivot_would_be():
    assert field.null_vector(np.array([[0, 1], [1, 0]])) is None
    assert field.null_vector(np.array([[0, 2], [0, 3]])).tolist() == [1, 0]


def test_random_elements_are_uniform_and_secret_ones_differ():
    for drawn in (field.random_elements(rng(), (40_000,)), field.secret_elements((40_000,))):
        assert drawn.dtype == np.int64
        assert drawn.min() >= 0
        assert drawn.max() < PRIME
        assert drawn.mean() / PRIME == pytest.approx(0.5, abs=0.01)
        assert (drawn & 1).mean() == pytest.approx(0.5, abs=0.02)
    assert field.secret_elements((2, 3)).shape == (2, 3)
    assert field.secret_elements((0, 3)).shape == (0, 3)
    assert not np.array_equal(field.secret_elements((9,)), field.secret_elements((9,)))
    assert np.array_equal(field.random_elements(rng(1), (9,)), field.random_elements(rng(1), (9,)))


def test_a_draw_that_is_no_element_is_drawn_again(monkeypatch):
    words = iter([np.array([PRIME, 5], np.uint32), np.array([7 + 2**31], np.uint32)])
    monkeypatch.setattr(field.secrets, "token_bytes", lambda size: next(words).tobytes())
    assert field.secret_elements((2,)).tolist() == [7, 5]


@given(x=arrays.arrays(np.float64, st.integers(0, 5), elements=st.floats(-400, 400)), bits=st.integers(0, 20))
def test_fixed_point_there_and_back_is_rounding_and_sums_are_sums(x, bits):
    elements = field.to_field(x, bits)
    assert ((elements >= 0) & (elements < PRIME)).all()
    back = field.from_field(elements, bits)
    assert np.abs(back - x).max(initial=0.0) <= 2.0 ** -(bits + 1)
    negative = field.to_field(-x, bits)
    assert not field.add(elements, negative).any()
    assert np.array_equal(field.from_field(field.subtract(elements, negative), bits), 2 * back)


def test_fixed_point_refuses_what_would_wrap_around():
    largest = PRIME // 2
    assert field.from_field(field.to_field(np.array([largest, -largest]), 0), 0).tolist() == [
        largest,
        -largest,
    ]
    for x, bits, terms in (
        (largest + 1, 0, 1),
        (largest, 1, 1),
        (-largest / 3, 0, 4),
        (np.nan, 0, 1),
        (np.inf, 0, 1),
    ):
        with pytest.raises(FieldError, match="clip it or take fewer bits"):
            field.to_field(np.array([0.0, x]), bits, terms=terms)


def test_elements_are_checked_at_the_door():
    assert field.check_elements("x", np.array([0, PRIME - 1], np.uint32)).dtype == np.int64
    with pytest.raises(FieldError, match=f"x from -1 to 3, expected 0 to {PRIME - 1}"):
        field.check_elements("x", np.array([3, -1]))
    with pytest.raises(FieldError, match="x from 0 to 2147483647"):
        field.check_elements("x", np.array([0, PRIME]))
    with pytest.raises(FieldError, match="x of float64, expected whole numbers"):
        field.check_elements("x", np.ones(2))
