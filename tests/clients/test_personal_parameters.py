"""Parameters that stay with each client: pFedPara's second factors."""

import numpy as np
import pytest
from apps.keeping import data, mlp

from fedeff.clients import LocalTraining, client_app, obstacle_to_vectorising, train_loop
from fedeff.clients.data import prepared
from fedeff.clients.personal_parameters import PersonalParameters
from fedeff.core.layers import decode_record
from fedeff.core.rng import generator
from fedeff.models import FedPara

TRAINING = LocalTraining(learning_rate=0.1, batch_size=5)


def personal_model():
    return FedPara(rank=2, personal=True).apply(mlp())


@pytest.fixture
def start(arrays_of):
    return arrays_of(personal_model())


def trained_twice(start, partition, seed):
    """By hand: two rounds of one client from the same shared arrays, its own factors kept between them."""
    model, own = personal_model(), data(partition, 5)
    for server_round in (1, 2):
        rng = generator(seed, purpose="batches", round=server_round, client=partition)
        result = train_loop(model, start, prepared(own.train_x, own.train_y, "cpu"), TRAINING, rng)
    return result.arrays


@pytest.mark.parametrize("vectorise", ["never", "auto"])
def test_each_client_goes_on_with_its_own(vectorise, start, ask, context_of):
    app = client_app(personal_model, data, TRAINING, seed=3, vectorise=vectorise)
    contexts = [context_of(partition) for partition in (0, 2)]
    for server_round in (1, 2):
        messages = [ask(start, server_round=server_round) for _ in contexts]
        replies = app.run_block(messages, contexts)
    for reply, partition in zip(replies, (0, 2), strict=True):
        sent = decode_record(reply.content["arrays"])
        assert sent.keys() == start.keys()
        assert not any(key[-2:] in ("x2", "y2") for key in sent)
        for key, values in trained_twice(start, partition, seed=3).items():
            np.testing.assert_array_equal(sent[key], values)
    kept = [decode_record(context.state["personal-parameters"]) for context in contexts]
    assert set(kept[0]) == {f"fc{n}.weight_{factor}2" for n in (1, 2) for factor in "xy"}
    assert not np.array_equal(kept[0]["fc1.weight_x2"], kept[1]["fc1.weight_x2"])


def test_a_client_is_evaluated_with_its_own_and_a_new_one_with_the_first(start, request_to, context_of):
    app = client_app(personal_model, evaluated, TRAINING)
    model = personal_model()
    message, context = request_to(model, 0)
    (_,) = app.run_block([message], [context])
    losses = []
    for state in (context.state, context_of(0).state):
        message, own = request_to(model, 0, kind="evaluate")
        own.state = state
        losses.append(app(message, own).content["metrics"]["eval-loss"])
    assert losses[0] < losses[1]


def evaluated(partition, partitions):
    own = data(partition, partitions)
    return type(own)(own.train_x, own.train_y, own.train_x, own.train_y)


def test_the_second_factors_begin_at_zero_and_are_no_part_of_the_state(start):
    model = personal_model()
    assert len(PersonalParameters(model)) == 4
    assert len(PersonalParameters(mlp())) == 0
    first = model.fc1.weight_x1 @ model.fc1.weight_y1.T
    assert np.array_equal(model.fc1.weights()["weight"].detach().numpy(), first.detach().numpy())
    assert "stay with each client" in obstacle_to_vectorising(model, TRAINING)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({key: values for key, values in model.state_dict().items() if "x1" not in key})
