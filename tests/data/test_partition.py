import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import DataError
from fedeff.data import Partition
from fedeff.data.partition import even_sizes, from_owners

THREE = Partition(np.array([4, 1, 0, 3, 2]), np.array([0, 2, 2, 5]))


def test_rows_sizes_and_owners():
    assert len(THREE) == 3
    assert [rows.tolist() for rows in THREE] == [[4, 1], [], [0, 3, 2]]
    assert THREE[2].tolist() == [0, 3, 2]
    assert THREE.sizes.tolist() == [2, 0, 3]
    assert THREE.owners.tolist() == [0, 0, 2, 2, 2]


def test_clients_are_read_only_views_of_one_array():
    mine = np.arange(5)
    Partition(mine, np.array([0, 5]))
    mine[0] = 1  # the array given stays the caller's to write
    assert np.shares_memory(THREE[2], THREE.rows)
    with pytest.raises(ValueError, match="read-only"):
        THREE[0][0] = 7


@pytest.mark.parametrize("client", [-1, 3])
def test_no_such_client(client):
    with pytest.raises(IndexError, match=f"client {client} of 3"):
        THREE[client]


def test_class_counts_by_hand():
    labels = np.array([0, 1, 1, 2, 0])
    assert THREE.class_counts(labels, 4).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]


@given(seed=st.integers(0, 1_000), clients=st.integers(1, 8), rows=st.integers(0, 40))
def test_class_counts_and_owners_equal_the_naive_ones(seed, clients, rows):
    rng = np.random.default_rng(seed)
    labels, owners = rng.integers(0, 3, rows), rng.integers(0, clients, rows)
    order = rng.permutation(rows)
    partition = from_owners(order, owners, clients)
    counts = partition.class_counts(labels, 3)
    for client in range(clients):
        mine = order[owners == client]
        assert partition[client].tolist() == mine.tolist()
        assert counts[client].tolist() == [int((labels[mine] == k).sum()) for k in range(3)]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1, 1, 2, 0], 2, "labels reach from 0 to 2; expected 0 to 1"),
        ([0, -1, 1, 2, 0], 3, "labels reach from -1 to 2"),
        ([0, 1, 1, 2], 3, "row 4 has no label among 4"),
    ],
)
def test_labels_that_do_not_fit(labels, classes, message):
    with pytest.raises(DataError, match=message):
        THREE.class_counts(np.array(labels), classes)


@pytest.mark.parametrize("offsets", [[0], [1, 5], [0, 4], [0, 3, 2, 5], []])
def test_offsets_that_do_not_fit(offsets):
    with pytest.raises(DataError, match="must rise from 0 to 5"):
        Partition(np.arange(5), np.array(offsets, np.int64))


def test_groups_that_do_not_fit():
    with pytest.raises(DataError, match="1 groups for 2 clients"):
        Partition(np.arange(5), np.array([0, 1, 5]), np.array([3]))


@given(rows=st.integers(0, 100), clients=st.integers(1, 30))
def test_even_sizes_differ_by_at_most_one(rows, clients):
    sizes = even_sizes(rows, clients)
    assert (sizes.sum(), len(sizes)) == (rows, clients)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.tolist() == sorted(sizes, reverse=True)
