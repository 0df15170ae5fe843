"""A real client with its app and its state, and the checks that tests of kept models share."""

import pickle

import numpy as np
from flwr.app import ArrayRecord

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.layers import decode_record
from fedeff.models import build

SIZES = [12, 3, 20, 10, 0]
KEYS = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
NEED_FULL = {"num-examples": 0, "need-full": 1, "partition-id": 0}


def mlp():
    return build("mlp", input_shape=(1, 6, 6))


def data(partition, partitions):
    rng, size = np.random.default_rng(partition), SIZES[partition]
    return ClientData(rng.random((size, 1, 6, 6), np.float32), rng.integers(0, 10, size))


class Client:
    """One client with its app and its state, which goes through a pickle after every message."""

    def __init__(self, mode, ask, context_of, partition=0):
        self.mode, self.ask, self.trainings = mode, ask, 0
        self.context_of, self.context = context_of, context_of(partition)
        self.app = client_app(mlp, data, LocalTraining(learning_rate=0.1), seed=3, vectorise=mode)
        self.start = {key: values.numpy().copy() for key, values in mlp().state_dict().items()}

    def __call__(self, arrays, correction=None, **config):
        """The client's reply. Raises what it raised."""
        message = self.ask(arrays, correction, **config)
        if self.mode == "never":
            reply = self.app(message, self.context)
        else:
            (reply,) = self.app.run_block([message], [self.context])
            if isinstance(reply, Exception):
                raise reply
        self.context.state = pickle.loads(pickle.dumps(self.context.state))
        return reply

    def trained(self, weights, **config):
        """What a client that keeps nothing makes of these weights."""
        other = Client(self.mode, self.ask, self.context_of, self.context.node_config["partition-id"])
        return arrays(other(weights, **config))

    def state(self):
        """Everything in its state as plain values."""
        return {
            name: {k: a.data for k, a in record.items()} if isinstance(record, ArrayRecord) else dict(record)
            for name, record in self.context.state.items()
        }


def arrays(reply):
    return decode_record(reply.content["arrays"])


def wire(reply):
    """A reply as it travels: keys in order, bytes, metrics."""
    found = reply.content.get("arrays")
    sent = None if found is None else [(key, array.data) for key, array in found.items()]
    return sent, dict(reply.content["metrics"])


def some(values, seed):
    """Other values of the same shapes."""
    rng = np.random.default_rng(seed)
    return {key: (v + rng.normal(0, 0.1, v.shape)).astype(v.dtype) for key, v in values.items()}


def assert_same(first, second):
    assert list(first) == list(second)
    for key, values in first.items():
        assert np.array_equal(values, second[key]), key
        assert values.dtype == second[key].dtype


def assert_needs_full(client, trainings, *message, **config):
    before, calls = client.state(), len(trainings)
    reply = client(*message, **config)
    assert wire(reply) == (None, NEED_FULL)
    assert client.state() == before
    assert len(trainings) == calls
