"""Small clients and models that the tests of local training share."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from apps.keeping import Client
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import nn

import fedeff.clients.app as app_module
from fedeff.clients.data import Samples, prepared
from fedeff.clients.self_supervision import SimSiamNetwork
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import encode_record
from fedeff.models import build

SHAPES = {
    "mlp": (1, 6, 6),
    "cnn": (1, 8, 8),
    "logistic": (1, 6, 6),
    "gru": (5,),
    "lstm": (5,),
    "transformer": (5,),
    "resnet20": (1, 8, 8),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in a worker; on a busy machine small models are also several times faster so."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _identity() -> None:
    set_task_identity(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., nn.Module]:
    def make(name: str, seed: int = 0) -> nn.Module:
        return build(name, classes=10, input_shape=SHAPES[name], seed=seed)

    return make


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    def make(name: str, count: int, seed: int = 0) -> Samples:
        rng, shape = np.random.default_rng((seed, count)), SHAPES[name]
        if len(shape) == 1:
            text = rng.integers(0, 10, (count, shape[0] + 1))
            return prepared(text[:, :-1], text[:, 1:], "cpu")
        return prepared(rng.random((count, *shape), np.float32), rng.integers(0, 10, count), "cpu")

    return make


@pytest.fixture(scope="session")
def arrays_of() -> Callable[[nn.Module], dict[str, np.ndarray]]:
    return lambda model: {key: value.numpy().copy() for key, value in model.state_dict().items()}


@pytest.fixture(scope="session")
def request_to() -> Callable[..., tuple[Message, Context]]:
    """A message to a client, and its context."""

    def request(
        model: nn.Module,
        partition: int,
        *,
        kind: str = "train",
        partitions: int = 10,
        **config: int | float | str | bool | Sequence[str],
    ) -> tuple[Message, Context]:
        keys = {key.replace("_", "-"): value for key, value in config.items()}
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "config": ConfigRecord(keys)})
        node = {"partition-id": partition, "num-partitions": partitions}
        context = Context(
            run_id=1, node_id=partition + 1, node_config=node, state=RecordDict(), run_config={}
        )
        return Message(content, dst_node_id=partition + 1, message_type=kind), context

    return request


@pytest.fixture(scope="session")
def context_of() -> Callable[..., Context]:
    """A client's context with an empty state, which a test may keep from message to message."""

    def context(partition: int, partitions: int = 10) -> Context:
        node = {"partition-id": partition, "num-partitions": partitions}
        return Context(run_id=1, node_id=partition + 1, node_config=node, state=RecordDict(), run_config={})

    return context


@pytest.fixture(scope="session")
def ask() -> Callable[..., Message]:
    """A train message that carries these parts and settings."""

    def ask(
        arrays: dict[str, np.ndarray],
        correction: dict[str, np.ndarray] | None = None,
        **config: int | float | str | bool | Sequence[str] | Sequence[int],
    ) -> Message:
        keys = {key.replace("_", "-"): value for key, value in config.items()}
        records = {"arrays": encode_record(arrays), "config": ConfigRecord(keys)}
        if correction is not None:
            records["correction"] = encode_record(correction)
        return Message(RecordDict(records), dst_node_id=1, message_type="train")

    return ask


@pytest.fixture(params=["never", "always"])
def client(
    request: pytest.FixtureRequest, ask: Callable[..., Message], context_of: Callable[..., Context]
) -> Client:
    """A client that keeps what it is told to, by the plain loop and by the vectorised block."""
    return Client(request.param, ask, context_of)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a client was trained, by the loop or in a block."""
    calls: list[str] = []

    def counting(name: str) -> None:
        real = getattr(app_module, name)
        monkeypatch.setattr(app_module, name, lambda *a: calls.append(name) or real(*a))

    for name in ("train_loop", "train_block", "mean_gradient"):
        counting(name)
    return calls


@pytest.fixture
def small_net() -> nn.Module:
    """SimSiam's network around a small encoder."""
    return SimSiamNetwork(build("cnn", input_shape=SHAPES["cnn"]), 16, 0)


@pytest.fixture
def images() -> torch.Tensor:
    """A few images that the small network takes."""
    return torch.from_numpy(np.random.default_rng(7).random((6, *SHAPES["cnn"]), np.float32))
