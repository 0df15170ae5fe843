"""Per-SSFL's personal model: trained beside the global part, kept, never sent."""

import logging
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import RecordDict

from fedeff.clients import ClientData, LocalTraining, client_app, train_loop
from fedeff.clients.self_supervision import (
    PersonalSimSiam,
    SimSiam,
    SimSiamNetwork,
    keep_personal,
    kept_personal,
    train_beside,
)
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, payload_bytes
from fedeff.models import build

TRAINING = {"batch_size": 16, "optimizer": "momentum", "momentum": 0.9, "learning_rate": 0.05}


def data(partition, partitions):
    rng = np.random.default_rng(partition)
    x, y = rng.random((40, 1, 8, 8), np.float32), rng.integers(0, 3, 40)
    return ClientData(x, y, x[:20], y[:20])


def network():
    return SimSiamNetwork(build("cnn", input_shape=(1, 8, 8)), 16, 0)


def other_weights():
    other = SimSiamNetwork(build("cnn", input_shape=(1, 8, 8), seed=8), 16, 8)
    return {key: value.detach().numpy() for key, value in other.state_dict().items()}


def app_of(objective, vectorise="never"):
    return client_app(network, data, LocalTraining(**TRAINING, objective=objective), vectorise=vectorise)


def test_the_personal_loss_by_hand(small_net, images):
    """SimSiam's loss and the squared distance of unit embeddings, which is 2 - 2 cos."""
    objective = PersonalSimSiam(weight=3.0)
    views = objective.views(images, np.random.default_rng(0))
    z, anchor = small_net.embed(views), torch.rand(len(views), 16, requires_grad=True)
    loss = objective.of_personal(small_net, z, anchor)
    expected = objective.of(small_net, z).loss + 3 / 2 * (2 - 2 * F.cosine_similarity(z, anchor)).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert anchor.grad is None


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_global_part_trains_as_without_a_personal_model(weight, small_net, make_samples, arrays_of):
    samples, start = make_samples("cnn", 50), arrays_of(small_net)
    own = {key: values + 0.01 for key, values in start.items()}
    alone = LocalTraining(**TRAINING, epochs=2, objective=SimSiam())
    beside = LocalTraining(**TRAINING, epochs=2, objective=PersonalSimSiam(weight=weight))
    expected = train_loop(small_net, start, samples, alone, np.random.default_rng(4))
    given, personal = train_beside(small_net, start, own, samples, beside, np.random.default_rng(4))
    assert given.loss == expected.loss
    assert given.measures == expected.measures
    assert all(np.array_equal(given.arrays[key], expected.arrays[key]) for key in start)
    # A personal model that nothing pulls is one more SimSiam, from its own weights by the same views.
    apart = train_loop(small_net, own, samples, alone, np.random.default_rng(4)).arrays
    same = all(np.allclose(personal[key], apart[key], atol=1e-5) for key in start)
    assert same == (weight == 0)


def test_a_heavier_weight_keeps_personal_embeddings_nearer(small_net, make_samples, arrays_of):
    samples, start = make_samples("cnn", 64), arrays_of(small_net)
    own, apart = other_weights(), []
    for weight in (0.0, 20.0):
        training = LocalTraining(**TRAINING, epochs=15, objective=PersonalSimSiam(weight=weight))
        given, personal = train_beside(small_net, start, own, samples, training, np.random.default_rng(0))
        embedded = []
        for arrays in (given.arrays, personal):
            small_net.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
            embedded.append(small_net.embed(samples.x).detach())
        apart.append(1 - float(F.cosine_similarity(*embedded).mean()))
    assert apart[1] < 0.5 * apart[0]


def test_the_personal_model_is_in_no_message_and_grows_none(request_to):
    """Names and bytes of what is sent are those of SimSiam alone."""
    model, sent = network(), {}
    for name, objective in (("simsiam", SimSiam()), ("per-ssfl", PersonalSimSiam())):
        message, context = request_to(model, 3, server_round=1)
        keep_personal(context.state, other_weights())
        reply = app_of(objective)(message, context)
        sent[name] = reply.content
        assert set(reply.content) == {"arrays", "metrics"}
        assert set(reply.content["arrays"]) == set(model.state_dict())
    assert payload_bytes(sent["per-ssfl"]) == payload_bytes(sent["simsiam"])
    assert dict(sent["per-ssfl"]["metrics"]) == dict(sent["simsiam"]["metrics"])
    for key, values in decode_record(sent["simsiam"]["arrays"]).items():
        assert np.array_equal(values, decode_record(sent["per-ssfl"]["arrays"])[key])
    own = kept_personal(context.state, decode_record(sent["simsiam"]["arrays"]))
    assert any(not np.array_equal(own[key], values) for key, values in other_weights().items())
    parts = [array.data for array in sent["per-ssfl"]["arrays"].values()]
    assert not any(own[key].tobytes() in part for key in own for part in parts)
    assert kept_personal(context.state, {}) == {}  # another network's arrays are not taken for one's own


def test_the_personal_model_goes_on_from_message_to_message_and_through_pickling(request_to):
    """What a worker that died had kept comes back from its state; without, it begins anew."""
    app, (message, context) = app_of(PersonalSimSiam()), request_to(network(), 2, server_round=1)
    app(message, context)
    first = kept_personal(context.state, decode_record(message.content["arrays"]))
    lost = pickle.loads(pickle.dumps(context.state))
    message, context = request_to(network(), 2, server_round=2)
    afresh = request_to(network(), 2, server_round=2)
    context.state = lost
    pickle.loads(pickle.dumps(app))(message, context)
    second = kept_personal(context.state, first)
    assert any(not np.array_equal(first[key], second[key]) for key in first)
    app(*afresh)
    anew = kept_personal(afresh[1].state, first)
    assert any(not np.array_equal(anew[key], second[key]) for key in first)


def test_an_evaluating_client_scores_its_own_model_and_the_global_one(request_to):
    app = app_of(PersonalSimSiam(probe_labels=0.5))
    keys = {"num-examples", "partition-id", "eval-loss", "eval-accuracy", "eval-knn-accuracy"}
    message, context = request_to(network(), 1, kind="evaluate")
    before = dict(app(message, context).content["metrics"])
    assert before.keys() == keys | {"eval-accuracy-global"}
    assert before["eval-accuracy"] == before["eval-accuracy-global"]
    keep_personal(context.state, other_weights())
    after = dict(app(message, context).content["metrics"])
    assert after["eval-accuracy-global"] == before["eval-accuracy-global"]
    assert after["eval-loss"] != before["eval-loss"]
    plain = app_of(SimSiam(probe_labels=0.5))(*request_to(network(), 1, kind="evaluate"))
    assert plain.content["metrics"].keys() == keys
    assert plain.content["metrics"]["eval-loss"] == before["eval-loss"]


def test_a_personal_model_that_diverged_is_not_kept(caplog):
    state = RecordDict()
    keep_personal(state, {"w": np.ones(2, np.float32)})
    with caplog.at_level(logging.WARNING):
        keep_personal(state, {"w": np.array([1, np.nan], np.float32)})
    assert "diverged" in caplog.text
    assert kept_personal(state, {"w": np.zeros(2)})["w"].tolist() == [1, 1]


def test_blocks_answer_as_single_clients_do(request_to, trainings):
    app = app_of(PersonalSimSiam(), "auto")
    messages, contexts = zip(*(request_to(network(), i, server_round=1) for i in range(3)), strict=True)
    replies = app.run_block(messages, contexts)
    assert trainings == []  # neither the bare loop nor a stack
    alone = app(*request_to(network(), 1, server_round=1))
    for key, values in decode_record(alone.content["arrays"]).items():
        assert np.array_equal(values, decode_record(replies[1].content["arrays"])[key])


def test_what_an_objective_cannot_do_is_named(request_to, small_net, make_samples, arrays_of):
    with pytest.raises(ConfigError, match="objective replaces"):
        app_of(SimSiam())(*request_to(network(), 0, procedure="curvature"))
    refused = app_of(SimSiam(), "always").run_block(*([one] for one in request_to(network(), 0)))
    assert "objective" in str(refused[0])
    with pytest.raises(ConfigError, match="trained by PersonalSimSiam"):
        train_beside(small_net, {}, {}, make_samples("cnn", 4), LocalTraining(), np.random.default_rng(0))
