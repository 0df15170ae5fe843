"""Clients that follow the version of the model that a message names, and never mix two of them."""

import pickle

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedeff.clients import LocalTraining, client_app
from fedeff.clients.data import ClientData
from fedeff.clients.structure import Sparsity
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record
from fedeff.models import Structure, apply, build

SHAPE = (1, 6, 6)
SMALL = Structure(1, {"fc1": tuple(range(0, 64, 4))})
SMALLER = SMALL.then(Structure(kept={"fc1": (1, 5, 7)}))


def data(partition: int, partitions: int) -> ClientData:
    rng = np.random.default_rng(partition)
    x, y = rng.random((25, *SHAPE), np.float32), rng.integers(0, 10, 25)
    return ClientData(x, y, x, y)


def mlp():
    return build("mlp", input_shape=SHAPE)


def make_app(vectorise="never", **options):
    training = options.pop("training", LocalTraining(learning_rate=0.1))
    return client_app(mlp, data, training, vectorise=vectorise, **options)


def model_of(structure):
    return apply(structure, mlp())


def told(structure, **config):
    about = {"model-version": structure.version, "structure": structure.json}
    return about | {key.replace("_", "-"): value for key, value in config.items()}


def message_of(arrays, config, kind="train", node=1):
    content = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord(config)})
    return Message(content, dst_node_id=node, message_type=kind)


def shapes(reply):
    return {key: values.shape for key, values in decode_record(reply.content["arrays"]).items()}


@pytest.mark.parametrize("structure", [Structure(), SMALL, SMALLER])
def test_a_client_trains_and_evaluates_the_version_that_a_message_names(structure, context_of):
    app, model = make_app(), model_of(structure)
    reply = app(message_of(model.state_dict(), told(structure)), context_of(0))
    assert shapes(reply) == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    scored = app(message_of(model.state_dict(), told(structure), "evaluate"), context_of(0))
    assert scored.content["metrics"]["num-examples"] == 25


def test_blocks_follow_too_and_agree_with_the_loop(context_of):
    """A block may hold messages of several versions."""
    kinds = [SMALL, SMALLER, SMALL, SMALLER]
    messages = [
        message_of(model_of(one).state_dict(), told(one, server_round=3), node=i + 1)
        for i, one in enumerate(kinds)
    ]
    by_block = make_app("always").run_block(messages, [context_of(i) for i in range(4)])
    loop = make_app()
    for place, (message, reply) in enumerate(zip(messages, by_block, strict=True)):
        expected = decode_record(loop(message, context_of(place)).content["arrays"])
        for key, values in decode_record(reply.content["arrays"]).items():
            np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-5)


def test_what_was_kept_of_another_version_is_dropped_and_the_whole_model_helps(context_of):
    app, context = make_app(), context_of(0)
    whole, small = model_of(Structure()).state_dict(), model_of(SMALL).state_dict()
    cycle = {"cycle": 1}
    app(message_of(whole, told(Structure(), cycle_round=0, **cycle)), context)
    # The next round of the very cycle, in which a client of the same version could go on:
    partly = {"fc2.bias": small["fc2.bias"]}
    refused = app(message_of(partly, told(SMALL, cycle_round=1, **cycle)), context)
    assert dict(refused.content["metrics"]) == {"num-examples": 0, "need-full": 1, "partition-id": 0}
    recovered = app(message_of(small, told(SMALL, cycle_round=1, **cycle)), context)
    assert recovered.content["metrics"]["num-examples"] == 25
    gone_on = app(message_of(partly, told(SMALL, cycle_round=2, **cycle)), context)
    assert shapes(gone_on) == {key: tuple(value.shape) for key, value in small.items()}


def test_a_repeated_tag_of_another_version_is_no_repetition(context_of):
    app, context = make_app(), context_of(0)
    config = {"cycle": 1, "cycle_round": 0}
    app(message_of(model_of(Structure()).state_dict(), told(Structure(), **config)), context)
    reply = app(message_of(model_of(SMALL).state_dict(), told(SMALL, **config)), context)
    assert shapes(reply)["fc1.weight"] == (16, 36)


@pytest.mark.parametrize("in_cycle", [True, False])
def test_moments_of_another_version_are_dropped(in_cycle, context_of):
    training = LocalTraining(optimizer="momentum", momentum=0.9, learning_rate=0.05)
    app, context = make_app(training=training), context_of(0)
    extra = {"cycle": 1, "cycle_round": 0} if in_cycle else {}
    app(
        message_of(model_of(Structure()).state_dict(), told(Structure(), keep_optimizer=True, **extra)),
        context,
    )
    again = {"cycle": 2, "cycle_round": 0} if in_cycle else {}
    request = message_of(model_of(SMALL).state_dict(), told(SMALL, keep_optimizer=True, **again))
    reply = decode_record(app(request, context).content["arrays"])
    fresh = decode_record(app(request, context_of(0)).content["arrays"])
    assert all(np.array_equal(reply[key], fresh[key]) for key in fresh)
    moments = context.state["optimizer-0"]
    assert tuple(moments["fc1.weight"].shape) == (16, 36)


def test_versions_travel_with_a_pickled_app(context_of):
    app = make_app()
    request = message_of(model_of(SMALL).state_dict(), told(SMALL))
    before = app(request, context_of(0))
    after = pickle.loads(pickle.dumps(app))(request, context_of(0))
    assert shapes(before) == shapes(after)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model-version": 2, "structure": SMALL.json}, "model version 2, its structure of version 1"),
        ({"model-version": 1}, "model version 1, its structure of version 0"),
        ({"structure": SMALL.json}, "model version 0, its structure of version 1"),
        ({"model-version": 1, "structure": "{"}, "cannot be read"),
        ({"model-version": 1, "structure": 5}, "structure is 5"),
        ({"model-version": -1, "structure": "{}"}, "model-version is -1"),
        (told(Structure(1, {"conv1": (0,)})), "unknown units of Perceptron 'conv1'"),
        (told(SMALLER), "build the same model"),
        ({"penalty": 1} | told(SMALL), "penalty is 1"),
    ],
)
def test_versions_that_do_not_fit_are_refused_in_one_line(config, complaint, context_of):
    with pytest.raises(ConfigError, match=complaint) as refused:
        make_app()(message_of(model_of(SMALL).state_dict(), config), context_of(0))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("structure", [Structure(), SMALL])
def test_the_penalty_is_that_of_the_version_and_off_where_a_message_says_so(structure, context_of):
    sparsity = Sparsity("ssl", 0.5, groups=("neurons",))
    model = model_of(structure)
    reply = {}
    for name, app, config in (
        ("with", make_app(penalty=sparsity.penalty), {}),
        ("off", make_app(penalty=sparsity.penalty), {"penalty": False}),
        ("without", make_app(), {}),
        ("given", make_app(training=LocalTraining(learning_rate=0.1, penalty=sparsity.penalty(model))), {}),
    ):
        message = message_of(model.state_dict(), told(structure, **config))
        reply[name] = decode_record(app(message, context_of(0)).content["arrays"])
    sizes = {name: float(np.abs(arrays["fc1.weight"]).sum()) for name, arrays in reply.items()}
    assert sizes["off"] == sizes["without"]
    assert sizes["with"] == sizes["given"] < 0.8 * sizes["without"]


def test_penalised_clients_go_by_the_loop_without_a_warning(context_of, caplog, trainings):
    """The vectorised block has no place for a penalty; that is no failure of a block."""
    app = make_app("auto", penalty=Sparsity("ssl", 0.1, groups=("neurons",)).penalty)
    for penalty in (True, False):
        messages = [
            message_of(model_of(SMALL).state_dict(), told(SMALL, penalty=penalty), node=i + 1)
            for i in range(3)
        ]
        replies = app.run_block(messages, [context_of(i) for i in range(3)])
        assert all(isinstance(reply, Message) for reply in replies)
    assert trainings == ["train_loop"] * 3 + ["train_block"]
    assert not caplog.records
    assert torch.get_num_threads() == 1
