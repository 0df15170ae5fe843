"""What an audit has to know of the quickstart app: found as `apps.described:describe`."""

import numpy as np

from fedeff.audit.foreign_app import AppDescription
from fedeff.audit.truth import Truth
from fedeff.audit.view import Public
from fedeff.clients import LocalTraining

CLIENTS = 150  # of ten rows each


def describe() -> AppDescription:
    """The network that the app's clients train, one step on all of their rows, and the app's test set."""
    from quickstart import task  # the folder of the app is on the path by now

    def rows_of(partition: int, server_round: int) -> Truth:
        x, y = task.client_data(partition, CLIENTS)
        return Truth(x.numpy(), y.numpy().astype(np.int64))

    x, y = task.test_data()
    return AppDescription(
        public=Public(task.Net, "classify", 10, (64,)),
        training=LocalTraining(epochs=1, batch_size=16, learning_rate=0.3),
        rows_of=rows_of,
        others=Truth(x.numpy(), y.numpy().astype(np.int64)),
    )


def confused() -> str:
    """Not what is expected."""
    return "a network"
