"""Berrut's code: no poles for any subset, weights that sum to one, coincidences exact."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.codes.berrut import Berrut, berrut_matrix, input_points, worker_points
from fedeff.core.errors import CodeError


def subsets(n: int) -> list[np.ndarray]:
    masks = np.array(list(itertools.product([False, True], repeat=n)))
    return list(masks[masks.any(axis=1)])


@pytest.mark.parametrize("n", range(1, 11))
def test_no_subset_has_a_pole(n):
    """The first weight is `prod_(j > 0) (z - a_j)` over a polynomial: that one never changes its sign."""
    fine = np.linspace(-1.1, 1.1, 202)  # an even number: none is a worker's point
    for mask in subsets(n):
        nodes = worker_points(n)[mask]
        first = berrut_matrix(nodes, fine)[:, 0]
        assert np.isfinite(first).all()
        denominator = np.prod(fine[:, None] - nodes[1:], axis=1) / first
        assert (denominator * denominator[0] > 0).all()


def test_signs_by_worker_instead_of_rank_would_have_poles():
    nodes = worker_points(3)[[0, 2]]
    assert berrut_matrix(nodes, np.array([0.0])).tolist() == [[0.5, 0.5]]  # by worker: 1 / 0


@given(n=st.integers(1, 12), data=st.data())
def test_weights_are_those_of_the_formula(n, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
    nodes, z = worker_points(n)[mask], data.draw(st.floats(-0.99, 0.99))
    if np.abs(nodes - z).min() < 1e-6:
        return
    terms = [(-1) ** j / (z - node) for j, node in enumerate(nodes)]
    naive = [term / sum(terms) for term in terms]
    assert berrut_matrix(nodes, np.array([z]))[0] == pytest.approx(naive, rel=1e-6)


@pytest.mark.parametrize("gap", [0.0, 1e-16, -1e-13])
def test_a_point_that_coincides_has_the_value_there(gap):
    nodes = worker_points(5)
    assert berrut_matrix(nodes, nodes[1:2] + gap).tolist() == [[0, 1, 0, 0, 0]]


@pytest.mark.parametrize(("k", "r"), [(1, 0), (1, 4), (2, 1), (4, 2), (10, 5)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_subset_decodes_constants_exactly_in_their_dtype(k, r, dtype):
    code = Berrut(k, r)
    inputs = np.full((k, 2, 3), 4.0, dtype)
    tasks = code.encode(inputs)
    assert tasks.shape == (k + r, 2, 3)
    for mask in subsets(k + r)[:: 1 if k < 10 else 97]:
        decoded = code.decode(np.where(mask[:, None, None], tasks, np.array(np.nan, dtype)), mask)
        assert decoded.values.dtype == np.dtype(dtype)
        assert np.abs(decoded.values - 4.0).max() < 4e-6


def test_inputs_are_handed_out_and_known_where_points_coincide():
    code = Berrut(3, 2)  # the middle one of cos(30), cos(90), cos(150) degrees is that of five workers
    assert input_points(3)[1] == pytest.approx(worker_points(5)[2], abs=1e-15)
    inputs = np.array([1.0, 2.0, 5.0])
    tasks = code.encode(inputs)
    assert tasks[2] == 2.0
    decoded = code.decode(tasks**2, np.array([1, 0, 1, 1, 1], bool))
    assert decoded.values[1] == 4.0
    assert np.array_equal(decoded.quality, [np.nan, 1.0, np.nan], equal_nan=True)


def test_more_workers_come_closer():
    inputs = np.sin(2 * input_points(6))
    errors = []
    for r in (4, 40, 400):
        code = Berrut(6, r)
        outputs = np.exp(code.encode(inputs))
        errors.append(np.abs(code.decode(outputs, np.ones(6 + r, bool)).values - np.exp(inputs)).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_nothing_here_cannot_be_decoded():
    code = Berrut(2, 1)
    assert not code.decodable(np.zeros(3, bool))
    with pytest.raises(CodeError, match="cannot decode"):
        code.decode(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(CodeError, match="expected floats"):
        code.encode(np.ones(2, int))
