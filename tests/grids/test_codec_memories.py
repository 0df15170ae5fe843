"""What codecs remember from exchange to exchange: in step, out of step, lost, of other arrays."""

import numpy as np
import pytest
from apps.coded import Direct, answers, arrays_of, asked, blobs_of, displaced, exchange, kept, model, moved
from flwr.app import Message, RecordDict

from fedeff.clients.coding import codec_mod
from fedeff.compression import RecordCodec
from fedeff.core.flower import set_task_identity, with_content
from fedeff.core.layers import decode_record, encode_record
from fedeff.grids import CodecGrid
from fedeff.grids.instructions import RECORD, Answer, blob_of, coded_record

RAW, HALF = RecordCodec.of("raw"), RecordCodec.of('half("float16")')
FEEDBACK = RecordCodec.of("error_feedback(top_k(0.25))")
EF21 = RecordCodec.of("ef21(top_k(0.25))")
POWER = RecordCodec.of("error_feedback(power_sgd(1))")


@pytest.fixture(autouse=True, scope="module")
def _task():
    set_task_identity(1)


def test_with_error_feedback_nothing_is_lost_but_late():
    direct = Direct(2)
    grid = CodecGrid(direct, up=FEEDBACK)
    sent = {node: {} for node in (1, 2)}
    for _ in range(5):
        for node, reply in enumerate(exchange(grid, displaced(direct)), 1):
            for key, values in arrays_of(reply).items():
                sent[node][key] = sent[node].get(key, 0) + values
    start = decode_record(model())
    for node in (1, 2):
        residuals = kept(direct, node).memories["arrays"]
        for key, values in start.items():
            if values.dtype.kind == "f":
                owed = sum(moved(values, node, times) - values for times in range(1, 6))
                np.testing.assert_allclose(sent[node][key] + residuals[key]["residual"], owed, atol=1e-5)
    assert [one.after for one in answers(direct, 1, range(2, 6))] == [
        one.exchange for one in answers(direct, 1, range(1, 5))
    ]


@pytest.mark.parametrize("codec", [FEEDBACK, EF21, POWER], ids=lambda codec: codec.spec)
@pytest.mark.parametrize("fault", ["request", "reply", "raise", "forget", "flip"])
def test_after_a_fault_both_sides_begin_anew(codec, fault):
    direct = Direct(2, {(1, 3): fault})
    grid = CodecGrid(direct, up=codec)
    for _ in range(6):
        replies = exchange(grid, displaced(direct))
        decoded = [reply for reply in replies if not reply.has_error()]
        assert [reply.metadata.src_node_id for reply in replies][-1] == 2
    assert direct.fired[fault] == 1
    assert len(decoded) == 2
    assert bool(grid.take_refused()) == (fault == "flip")
    begun = 3 if fault == "forget" else 4
    assert answers(direct, 1, [begun])[0].after == 0
    assert all(one.after for one in answers(direct, 1, range(begun + 1, 7)))
    assert all(one.after for one in answers(direct, 2, range(2, 7)))


def test_what_ef21_decodes_is_what_its_client_holds():
    """Whichever layers are sent, and whoever drops out."""
    direct = Direct(3, {(2, 2): "reply", (3, 4): "forget"})
    grid = CodecGrid(direct, up=EF21)
    layers = ["fc1.weight", "fc1.bias", "fc2.weight"]
    for at in range(1, 10):
        due = layers if at % 3 == 0 else [layers[at % 3]]
        messages = asked(direct, model(), reply_with="displacement", layers_due=due)
        for reply in exchange(grid, messages):
            node = reply.metadata.src_node_id
            held = kept(direct, node).memories["arrays"]
            for key, values in arrays_of(reply).items():
                assert np.array_equal(values, held[key]["estimate"]), (at, node, key)
    assert (direct.fired["reply"], direct.fired["forget"]) == (1, 1)


def test_power_sgd_begins_from_the_matrix_of_the_round_before():
    direct = Direct(1)
    grid = CodecGrid(direct, up=POWER)
    matrices = []
    for _ in range(3):
        exchange(grid, displaced(direct))
        matrices.append(kept(direct, 1).memories["arrays"]["fc1.weight"]["right"])
    assert not np.array_equal(matrices[0], matrices[1])
    assert kept(direct, 1).exchange == answers(direct, 1, [3])[0].exchange


def test_layers_that_are_not_sent_keep_their_residuals():
    direct = Direct(1)
    grid = CodecGrid(direct, up=FEEDBACK)
    exchange(grid, displaced(direct))
    before = kept(direct, 1).memories["arrays"]["fc1.weight"]["residual"]
    exchange(grid, asked(direct, model(), reply_with="displacement", layers_due=["fc2.weight"]))
    assert np.array_equal(kept(direct, 1).memories["arrays"]["fc1.weight"]["residual"], before)


def test_a_repeated_message_is_answered_with_the_same_blob_without_training():
    direct = Direct(1, {(1, 2): "twice"})
    grid = CodecGrid(direct, up=FEEDBACK)
    first = []
    for _ in range(3):
        exchange(grid, displaced(direct))
        first.append(direct.contexts[1].state["count"]["trained"])
    assert direct.fired["twice"] == 1
    assert first == [1, 2, 3]
    message = Message(direct.contents[1, 3], dst_node_id=1, message_type="train")
    again = codec_mod(message, direct.contexts[1], direct.app)
    assert blob_of(again.content["arrays"]) == blobs_of(direct, 3)[0]
    assert again.content["metrics"] == direct.replies[1, 3].content["metrics"]
    assert again.metadata.reply_to_message_id == message.metadata.message_id


def test_what_is_remembered_of_arrays_of_another_shape_is_dropped():
    direct = Direct(1)
    grid = CodecGrid(direct, up=EF21)
    exchange(grid, asked(direct, model()))
    small = encode_record({"fc1.weight": np.ones((3, 5), np.float32)})
    (reply,) = exchange(grid, asked(direct, small))
    assert not reply.has_error()
    assert answers(direct, 1, [2])[0].fresh
    exchange(grid, asked(direct, small))
    assert not answers(direct, 1, [3])[0].fresh
    assert set(kept(direct, 1).memories["arrays"]) == {"fc1.weight"}


def lying(**changes):
    """A Grid whose only client says something else of its reply than is true."""
    direct = Direct(1)
    honest = direct._called

    def called(message, fault):
        reply = honest(message, fault)
        values = {**vars(Answer.of(reply.content)), **changes}
        return with_content(reply, RecordDict({**reply.content, RECORD: Answer(**values).record()}))

    direct._called = called
    return direct


@pytest.mark.parametrize(
    ("changes", "config", "reason"),
    [
        ({"exchange": 5}, {}, "not awaited"),
        ({"after": 5}, {}, "went on from exchange 5"),
        ({"digest": 5}, {"cycle": 1}, "other arrays than it was sent"),
        ({"difference": True}, {"reply_with": "displacement"}, "differences to arrays"),
        ({"compact": True}, {"layers_due": ["fc1.bias[3:99]"]}, "layout"),
    ],
)
def test_a_client_that_says_what_cannot_be_is_refused(changes, config, reason):
    direct = lying(**changes)
    if "compact" in changes:
        direct.app = lambda message, context: Message(message.content, reply_to=message)
    (reply,) = exchange(CodecGrid(direct, up=EF21), asked(direct, model(), **config))
    assert reason in reply.error.reason


def test_a_coded_record_that_nobody_asked_for_is_refused():
    def app(message, context):
        return Message(RecordDict({"arrays": coded_record(b"abc")}), reply_to=message)

    grid = CodecGrid(Direct(1, app=app), down=HALF, down_difference=True)
    (reply,) = exchange(grid, asked(grid, model()))
    assert "not asked for" in reply.error.reason
