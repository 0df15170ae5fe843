"""What a worker of a gradient code answers: against naive sums, the same for all who hold a part."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.clients.coded_gradient import Part, coded_gradient
from fedeff.clients.data import prepared
from fedeff.clients.training import batches
from fedeff.core.errors import ConfigError, ReplyError
from fedeff.models import FedPara, build

SIZES = [12, 3, 20, 9]
KEYS = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
CODE = {"parts:0": [0, 2], "parts:1": [1, 2], "parts:2": [2, 3], "parts:3": [0, 1]}
WEIGHTS = {
    "coefficients:0": [0.5, -2.0],
    "coefficients:1": [1.0, 1.0],
    "coefficients:2": [3.0, 0.25],
    "coefficients:3": [-1.0, 4.0],
}


def mlp(seed=0):
    return build("mlp", input_shape=(1, 6, 6), seed=seed)


def data(partition, partitions):
    rng, size = np.random.default_rng(partition), SIZES[partition]
    return ClientData(rng.random((size, 1, 6, 6), np.float32), rng.integers(0, 10, size))


def answer(partition, training=None, *, model=mlp, code=None, request_to=None, **config):
    """The reply of client `partition`, asked for its combination in the code."""
    app = client_app(model, data, training or LocalTraining())
    message, context = request_to(model(), partition, partitions=len(SIZES), server_round=2)
    told = {"procedure": "coded-gradient", **(CODE | WEIGHTS if code is None else code), **config}
    for key, value in told.items():
        message.content["config"][key] = value
    return app(message, context)


def arrays(reply):
    return {key: array.numpy() for key, array in reply.content["arrays"].items()}


def naive(partition, model=None):
    """The sum of the loss's gradient over all rows of a part, in float64."""
    model = (model or mlp()).double()
    own = data(partition, 4)
    loss = F.cross_entropy(
        model(torch.from_numpy(own.train_x).double()), torch.from_numpy(own.train_y), reduction="sum"
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return {key: g.numpy() for (key, _), g in zip(model.named_parameters(), gradients, strict=True)}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("partition", [0, 3])
def test_it_is_the_combination_of_the_parts_summed_gradients(batch_size, partition, request_to):
    """Of all rows, whatever the batches in which they are gone through."""
    reply = answer(partition, LocalTraining(epochs=3, batch_size=batch_size), request_to=request_to)
    parts, coefficients = CODE[f"parts:{partition}"], WEIGHTS[f"coefficients:{partition}"]
    expected = [(c, naive(part)) for part, c in zip(parts, coefficients, strict=True)]
    assert list(reply.content["arrays"]) == KEYS
    for key, values in arrays(reply).items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, sum(c * g[key] for c, g in expected), rtol=1e-4, atol=1e-5)
    metrics = reply.content["metrics"]
    assert metrics["num-examples"] == sum(SIZES[part] for part in parts)
    assert metrics["num-steps"] == sum(-(-SIZES[part] // batch_size) for part in parts)
    assert metrics["partition-id"] == partition
    assert metrics["coded-examples"] == sum(
        c * SIZES[part] for part, c in zip(parts, coefficients, strict=True)
    )
    assert 1 < metrics["train-loss"] < 4


def with_dropout():
    return torch.nn.Sequential(torch.nn.Dropout(0.3), mlp())


@pytest.mark.parametrize("changes", [{"steps": 2, "batch_size": 4}, {"batch_size": 6}])
def test_a_part_s_gradient_is_the_same_whoever_computes_it(changes, request_to):
    """Its batches and its dropout are drawn by its number and the round."""
    code = {f"parts:{worker}": [2] for worker in range(4)}
    code |= {f"coefficients:{worker}": [1.0] for worker in range(4)}
    options = {"model": with_dropout, "code": code, "request_to": request_to}
    found = [arrays(answer(worker, LocalTraining(**changes), **options)) for worker in range(4)]
    assert all(np.array_equal(found[0][key], one[key]) for one in found[1:] for key in one)
    later = arrays(answer(0, LocalTraining(**changes), **{"server-round": 3}, **options))
    assert any(not np.array_equal(found[0][key], later[key]) for key in later)


def test_mini_batches_stand_for_all_rows_of_their_part(make_samples, arrays_of):
    samples, training = make_samples("mlp", 11), LocalTraining(steps=2, batch_size=3)
    model = mlp()
    found = coded_gradient(mlp(1), arrays_of(model), [Part(0.5, samples, np.random.default_rng(4))], training)
    rows = np.concatenate(list(batches(11, training, np.random.default_rng(4))))
    assert len(rows) == 6
    loss = F.cross_entropy(model(samples.x[rows]), samples.y[rows])
    for (key, _), one in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        np.testing.assert_allclose(found.arrays[key], 0.5 * 11 * one.numpy(), rtol=1e-4, atol=1e-6)
    assert (found.steps, found.examples, found.coded_examples) == (2, 11, 5.5)
    assert found.loss == pytest.approx(loss.item(), abs=1e-6)


def test_weight_decay_is_part_of_the_loss(request_to):
    plain, decayed = (
        arrays(answer(1, LocalTraining(weight_decay=decay), request_to=request_to)) for decay in (0.0, 0.1)
    )
    rows = SIZES[1] + SIZES[2]
    for key, values in mlp().state_dict().items():
        np.testing.assert_allclose(decayed[key] - plain[key], 0.1 * rows * values.numpy(), atol=1e-4)


class Partly(torch.nn.Module):
    """A frozen weight, and a buffer that stays as it is."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(36, 10)
        self.fc.bias.requires_grad_(False)
        self.register_buffer("scale", torch.full((1,), 0.5))

    def forward(self, x):
        return self.scale * self.fc(x.flatten(1))


def test_what_has_no_gradient_is_sent_as_zeros(request_to):
    found = arrays(answer(0, model=Partly, request_to=request_to))
    assert list(found) == list(Partly().state_dict())
    assert found["fc.weight"].any()
    assert not found["fc.bias"].any()
    assert not found["scale"].any()


def normed():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(36), torch.nn.Linear(36, 10))


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (normed, {}, "buffer '1.running_mean' moves when the model trains"),
        (lambda: FedPara(personal=True).apply(mlp()), {}, "parameters that stay with each"),
        (mlp, {"parts:4": [0]}, "the gradient code has 5 workers, this is one of 4 clients"),
        (mlp, {"parts:0": [0]}, "1 parts with 2 coefficients"),
        (mlp, {"parts:0": [0, 4]}, r"parts are \[0, 4\]; expected partitions from 0 to 3"),
        (mlp, {"parts:0": [0.0, 1.0]}, r"parts are \[0.0, 1.0\]"),
        (mlp, {"parts:0": "02"}, "parts:0 is '02'; expected a list"),
        (mlp, {"coefficients:0": [1.0, float("nan")]}, "expected finite numbers"),
        (mlp, {"reply-with": "displacement"}, "moves no weights"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, config, message, request_to):
    with pytest.raises(ConfigError, match=message) as refused:
        answer(0, model=model, request_to=request_to, **config)
    assert "\n" not in str(refused.value)


def test_a_model_that_has_diverged_is_told_as_an_error():
    app = client_app(mlp, data, LocalTraining())
    state = {key: torch.full_like(values, torch.nan) for key, values in mlp().state_dict().items()}
    config = ConfigRecord({"procedure": "coded-gradient", "server-round": 5, **CODE, **WEIGHTS})
    content = RecordDict({"arrays": ArrayRecord(state), "config": config})
    context = Context(1, 1, {"partition-id": 0, "num-partitions": 4}, RecordDict(), {})
    with pytest.raises(ReplyError, match="client 0 diverged in round 5"):
        app(Message(content, dst_node_id=1, message_type="train"), context)


def test_an_empty_part_is_no_part():
    with pytest.raises(ConfigError, match="without samples"):
        coded_gradient(
            mlp(),
            {key: values.numpy() for key, values in mlp().state_dict().items()},
            [Part(1.0, prepared(np.zeros((0, 1, 6, 6)), np.zeros(0, int), "cpu"), np.random.default_rng(0))],
            LocalTraining(),
        )
