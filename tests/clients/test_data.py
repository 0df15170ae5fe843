import pickle

import numpy as np
import pytest
import torch

from fedeff.clients import ClientData
from fedeff.clients.data import SampleStore, prepared
from fedeff.core.errors import ConfigError, DataError


class Source:
    """Clients of 10 float32 samples of 4 numbers, counting how often each is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, partition: int, partitions: int) -> ClientData:
        self.asked.append(partition)
        return ClientData(np.full((10, 4), partition, np.float32), np.arange(10))


ONE = 10 * 4 * 4 + 10 * 8  # bytes of a prepared client


def test_a_client_is_read_once_while_it_fits():
    source = Source()
    store = SampleStore(source, capacity_bytes=2 * ONE)
    for partition in (0, 1, 0, 1, 0):
        assert store.train(partition, 9, "cpu").x[0, 0] == partition
    assert source.asked == [0, 1]


def test_the_least_recently_used_client_is_dropped():
    source = Source()
    store = SampleStore(source, capacity_bytes=2 * ONE)
    for partition in (0, 1, 0, 2, 0, 1):
        store.train(partition, 9, "cpu")
    assert source.asked == [0, 1, 2, 1]


def test_a_client_beyond_the_capacity_is_served_but_not_kept():
    source = Source()
    store = SampleStore(source, capacity_bytes=ONE - 1)
    assert len(store.train(3, 9, "cpu")) == len(store.train(3, 9, "cpu")) == 10
    assert source.asked == [3, 3]


def test_a_pickled_store_leaves_the_samples_behind():
    store = SampleStore(Source(), capacity_bytes=10 * ONE)
    size = len(pickle.dumps(store))
    for partition in range(8):
        store.train(partition, 9, "cpu")
    assert len(pickle.dumps(store)) < size + 200
    assert pickle.loads(pickle.dumps(store)).train(4, 9, "cpu").x[0, 0] == 4


def test_read_only_and_tensor_inputs_are_taken_without_a_warning():
    x, y = np.ones((3, 2)), np.arange(3)
    x.flags.writeable = y.flags.writeable = False
    assert prepared(x, y, "cpu").x.dtype == torch.float32
    assert prepared(torch.ones(3, 2), torch.arange(3), "cpu").y.tolist() == [0, 1, 2]
    assert prepared(np.ones((3, 2), np.int32), y, "cpu").x.dtype == torch.int64


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_client_without_samples_is_an_error_that_names_it(part):
    empty = ClientData(np.zeros((0, 4)), np.zeros(0))
    with pytest.raises(DataError, match=f"client 2 of 5 has no {part} samples"):
        getattr(SampleStore(lambda *_: empty), part)(2, 5, "cpu")


def test_a_client_may_have_no_test_samples_of_its_own():
    data = ClientData(np.zeros((3, 4)), np.zeros(3), np.zeros((0, 4)), np.zeros(0))
    assert len(SampleStore(lambda *_: data).test(2, 5, "cpu")) == 0


def test_what_is_not_client_data_is_refused():
    with pytest.raises(DataError, match="3 train inputs but 2 labels"):
        ClientData(np.zeros((3, 4)), np.zeros(2))
    with pytest.raises(DataError, match="give both or neither"):
        ClientData(np.zeros((3, 4)), np.zeros(3), np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="must give ClientData"):
        SampleStore(lambda *_: (1, 2)).train(0, 1, "cpu")
    with pytest.raises(DataError, match="dtype <U1"):
        prepared(np.array(["a"]), np.zeros(1), "cpu")
