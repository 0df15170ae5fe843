"""The mod of local privacy: what leaves a client, by every way that a client may go."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedeff.clients.app import client_app
from fedeff.clients.clipped_noise import ClippedNoise
from fedeff.clients.data import ClientData
from fedeff.clients.local_privacy import LocalPrivacy
from fedeff.clients.training import LocalTraining
from fedeff.core.errors import PrivacyError
from fedeff.core.layers import decode_record, encode_record

CLIP = 0.05
SENT = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.zeros(2, np.float32)}
METRICS = {"num-examples": 7, "num-steps": 2, "partition-id": 3, "train-loss": 0.5, "value:b": 1}


@pytest.fixture
def app_of(make_model, make_samples):
    """A client app over small logistic models, with this privacy."""

    def make(privacy: LocalPrivacy | None, vectorise="auto", model="logistic", **training):
        def data(partition: int, partitions: int) -> ClientData:
            samples = make_samples(model, 12, partition)
            return ClientData(samples.x.numpy(), samples.y.numpy())

        return client_app(
            lambda: make_model(model),
            data,
            LocalTraining(**{"learning_rate": 0.5, "batch_size": 4, **training}),
            vectorise=vectorise,
            privacy=privacy,
        )

    return make


def answer(arrays, metrics=METRICS):
    """An app that answers any message with these."""

    def call(message: Message, context) -> Message:
        content = RecordDict({"arrays": encode_record(arrays), "metrics": MetricRecord(dict(metrics))})
        return Message(content, reply_to=message)

    return call


def told(reply: Message) -> dict[str, np.ndarray]:
    return decode_record(reply.content["arrays"])


def change_of(reply: Message, model: nn.Module) -> dict[str, np.ndarray]:
    sent = {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}
    return {key: values - sent[key] for key, values in told(reply).items()}


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_loop_block_and_plain_reference_tell_the_same_clipped_change(app_of, make_model, request_to, noise):
    mechanism, model = ClippedNoise(CLIP, 0.0, noise), make_model("logistic")
    pairs = [request_to(model, partition) for partition in range(3)]
    messages, contexts = zip(*pairs, strict=True)
    plain = [app_of(None, "never")(*request_to(model, p)) for p in range(3)]
    loop = [app_of(LocalPrivacy(mechanism), "never")(*request_to(model, p)) for p in range(3)]
    block = app_of(LocalPrivacy(mechanism), "always").run_block(messages, contexts)
    for reference, one, other in zip(plain, loop, block, strict=True):
        whole = change_of(reference, model)
        assert mechanism.norm(whole) > 2 * CLIP  # so that something is clipped
        wanted = mechanism.clipped(whole)
        for key, values in wanted.items():
            np.testing.assert_allclose(change_of(one, model)[key], values, atol=1e-7)
            np.testing.assert_allclose(change_of(other, model)[key], values, atol=1e-5)
        assert dict(one.content["metrics"]) == dict(reference.content["metrics"])


def test_blocks_are_still_used(app_of, trainings, make_model, request_to):
    messages, contexts = zip(*(request_to(make_model("logistic"), p) for p in range(3)), strict=True)
    app = app_of(LocalPrivacy(ClippedNoise(CLIP, 1.0)))
    assert app.block_size
    app.run_block(messages, contexts)
    assert trainings == ["train_block"]


def test_noise_is_added_in_blocks_as_in_the_loop(app_of, make_model, request_to):
    model = make_model("logistic")
    privacy = LocalPrivacy(ClippedNoise(CLIP, 2.0), quiet=True, seed=1)
    messages, contexts = zip(*(request_to(model, p, server_round=4) for p in range(2)), strict=True)
    block = app_of(privacy, "always").run_block(messages, contexts)
    loop = [app_of(privacy, "never")(*request_to(model, p, server_round=4)) for p in range(2)]
    for one, other in zip(block, loop, strict=True):
        for key, values in told(one).items():
            np.testing.assert_allclose(values, told(other)[key], atol=1e-5)
    noise = np.concatenate([v.ravel() for v in change_of(block[0], model).values()])
    assert np.std(noise) == pytest.approx(2 * CLIP, rel=0.1)


def test_seeded_noise_repeats_and_differs_between_clients_and_rounds(ask, context_of):
    privacy = LocalPrivacy(ClippedNoise(1.0, 1.0), seed=9)
    zeros = {"w": np.zeros(4000, np.float32)}

    def noise(partition: int, server_round: int) -> np.ndarray:
        message = ask(zeros, server_round=server_round)
        return told(privacy(message, context_of(partition), answer(zeros)))["w"]

    draws = {(p, r): noise(p, r) for p in (0, 1) for r in (1, 2)}
    np.testing.assert_array_equal(noise(1, 2), draws[1, 2])
    flat = np.array(list(draws.values()))
    apart = np.abs(np.corrcoef(flat) - np.eye(4))
    assert apart.max() < 0.08  # 5 deviations of a correlation of 4000 pairs


def test_secret_noise_never_repeats(ask, context_of):
    privacy = LocalPrivacy(ClippedNoise(1.0, 1.0))
    found = [told(privacy(ask(SENT), context_of(0), answer(SENT)))["w"] for _ in range(2)]
    assert not np.array_equal(*found)


def test_a_quiet_reply_keeps_what_a_sum_needs_and_no_measure(ask, context_of):
    reply = LocalPrivacy(ClippedNoise(1.0, 1.0), quiet=True)(ask(SENT), context_of(0), answer(SENT))
    assert dict(reply.content["metrics"]) == {"num-examples": 7, "num-steps": 2, "partition-id": 3}


def test_displacements_and_gradients_are_clipped_as_they_are(ask, context_of):
    far = {"w": np.full((3, 2), 10.0, np.float32)}
    for config in ({"reply_with": "displacement"}, {"procedure": "accumulate"}):
        reply = LocalPrivacy(ClippedNoise(0.5))(ask(SENT, **config), context_of(0), answer(far))
        np.testing.assert_allclose(np.linalg.norm(told(reply)["w"]), 0.5, rtol=1e-6)


def test_of_a_part_the_change_is_that_of_its_rows(ask, context_of):
    moved = {"w[1:2]": SENT["w"][1:2] + np.float32([[3.0, 4.0]])}
    reply = LocalPrivacy(ClippedNoise(1.0))(ask(SENT), context_of(0), answer(moved))
    np.testing.assert_allclose(told(reply)["w[1:2]"], np.float32([[2.6, 3.8]]), rtol=1e-6)


def test_in_a_cycle_the_change_is_that_from_what_was_last_sent(ask, context_of):
    """A client that is sent pieces remembers the rest, of which it tells the change of several rounds."""
    privacy, context = LocalPrivacy(ClippedNoise(1.0)), context_of(0)
    cycle = {"cycle": 1, "layers_due": ["b"]}
    privacy(ask(SENT, cycle_round=0, **cycle), context, answer({"b": SENT["b"]}))
    newer = {"b": np.float32([5.0, 5.0])}
    privacy(ask(newer, cycle_round=1, **cycle), context, answer(newer))
    away = {"w": SENT["w"] + 100, "b": newer["b"]}
    reply = privacy(ask({}, cycle_round=2, cycle=1), context, answer(away))
    np.testing.assert_array_equal(told(reply)["b"], newer["b"])
    np.testing.assert_allclose(np.linalg.norm(told(reply)["w"] - SENT["w"]), 1.0, rtol=1e-5)


def test_rows_that_were_sent_are_remembered_too(ask, context_of):
    privacy, context = LocalPrivacy(ClippedNoise(1.0)), context_of(0)
    privacy(ask(SENT, cycle=1, cycle_round=0), context, answer({"b": SENT["b"]}))
    rows = {"w[0:1]": np.full((1, 2), 50.0, np.float32)}
    reply = privacy(ask(rows, cycle=1, cycle_round=1), context, answer(rows))
    np.testing.assert_array_equal(told(reply)["w[0:1]"], rows["w[0:1]"])


def test_what_was_never_sent_cannot_be_told(ask, context_of):
    with pytest.raises(PrivacyError, match=r"\['w'\], of which it was sent nothing"):
        LocalPrivacy(ClippedNoise(1.0))(ask({"b": SENT["b"]}), context_of(0), answer(SENT))


def test_whole_numbers_go_back_as_they_came(ask, context_of):
    sent = {**SENT, "steps": np.array(5)}
    reply = LocalPrivacy(ClippedNoise(1.0, 1.0))(
        ask(sent), context_of(0), answer({**sent, "steps": np.array(9)})
    )
    assert told(reply)["steps"] == 5
    assert told(reply)["steps"].dtype == np.int64


def test_evaluation_errors_and_requests_for_the_whole_model_pass(app_of, ask, context_of, make_model):
    privacy = LocalPrivacy(ClippedNoise(1.0, 1.0), quiet=True)
    asking = ask(SENT)
    evaluation = Message(asking.content, dst_node_id=1, message_type="evaluate")
    reply = privacy(evaluation, context_of(0), answer(SENT))
    np.testing.assert_array_equal(told(reply)["w"], SENT["w"])
    whole = {"num-examples": 0, "need-full": 1, "partition-id": 0}

    def needs(message, context):
        return Message(RecordDict({"metrics": MetricRecord(dict(whole))}), reply_to=message)

    assert dict(privacy(ask({}), context_of(0), needs).content["metrics"]) == whole


def test_the_dtype_of_a_reply_stays(ask, context_of):
    sent = {"h": np.ones(3, np.float16), "d": np.ones((), np.float64)}
    reply = LocalPrivacy(ClippedNoise(1.0, 0.1))(ask(sent), context_of(0), answer(sent))
    assert {key: (v.dtype, v.shape) for key, v in told(reply).items()} == {
        "h": (np.float16, (3,)),
        "d": (np.float64, ()),
    }
    assert isinstance(reply.content["arrays"], ArrayRecord)
