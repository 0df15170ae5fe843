"""Coding on the client's side: one by one and in blocks, with whatever a client keeps."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedeff.clients import ClientData, LocalTraining, client_app, codec_mod
from fedeff.clients.coding import coded_block
from fedeff.clients.coding_state import CodingState, read_coding_state, write_coding_state
from fedeff.compression import RecordCodec
from fedeff.core.errors import CodecError
from fedeff.core.layers import decode_record, encode_record
from fedeff.grids.instructions import RECORD, Answer, Instruction, blob_of, coded_record
from fedeff.grids.replicas import Replica
from fedeff.models import build

ARRAYS = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "n": np.array(3)}
LIMIT = 2**20


def message_of(arrays=None, node=1, **instruction):
    content = RecordDict({"arrays": encode_record(ARRAYS if arrays is None else arrays)})
    content[RECORD] = Instruction(exchange=1, **instruction).record()
    return Message(content, dst_node_id=node, message_type="train")


def context_of(partition=0):
    node_config = {"partition-id": partition, "num-partitions": 4}
    return Context(1, partition + 1, node_config, RecordDict(), {})


def plus_one(message, context):
    assert RECORD not in message.content
    arrays = {
        key: values + values.dtype.type(1) for key, values in decode_record(message.content["arrays"]).items()
    }
    return Message(RecordDict({"arrays": encode_record(arrays)}), reply_to=message)


def decoded(reply, spec):
    blob = blob_of(reply.content["arrays"])
    return RecordCodec.of(spec).unpack(blob, expected=None, limit_bytes=LIMIT, memories={})[0]


def test_without_an_instruction_nothing_is_done():
    message = Message(RecordDict({"arrays": encode_record(ARRAYS)}), dst_node_id=1, message_type="train")
    context = context_of()
    reply = codec_mod(message, context, lambda m, c: m)
    assert reply is message
    assert coded_block(lambda m, c: list(m), [message], [context])[0] is message
    assert not context.state


def test_a_reply_is_coded_after_all_other_mods():
    app = ClientApp(mods=[codec_mod, lambda m, c, call: _doubled(call(m, c))])
    app.train()(plus_one)
    reply = app(message_of(up="raw"), context_of())
    np.testing.assert_array_equal(decoded(reply, "raw")["w"], 2 * (ARRAYS["w"] + 1))
    told = app(message_of(up="raw", difference=True), context_of())
    np.testing.assert_allclose(decoded(told, "raw")["w"], 2 * (ARRAYS["w"] + 1) - ARRAYS["w"], atol=1e-6)
    assert Answer.of(told.content).difference
    assert decoded(told, "raw")["n"] == 8


def _doubled(reply):
    arrays = {key: values * 2 for key, values in decode_record(reply.content["arrays"]).items()}
    return Message(RecordDict({"arrays": encode_record(arrays)}), reply_to=_request(reply))


def _request(reply):
    return Message(RecordDict(), dst_node_id=reply.metadata.src_node_id, message_type="train")


def test_arrays_that_cannot_be_coded_are_an_error_that_names_them():
    spoilt = {"w": np.full((4, 3), np.nan, np.float32)}
    context = context_of()
    with pytest.raises(CodecError, match="array 'w'"):
        codec_mod(message_of(spoilt, up="error_feedback(sign)"), context, plus_one)
    assert not context.state


def test_who_fails_in_a_block_fails_alone_and_who_answered_before_does_not_work_again():
    spec = "error_feedback(top_k(0.5))"
    contexts = [context_of(partition) for partition in range(5)]
    write_coding_state(
        contexts[3].state,
        CodingState(1, {}, None, {"arrays": coded_record(b"before"), "said": ConfigRecord()}),
    )
    messages = [message_of(up=spec) for _ in range(5)]
    messages[1] = message_of({"w": np.full((4, 3), np.inf, np.float32)}, up=spec)
    messages[4].content[RECORD] = ConfigRecord({"exchange": "one"})
    worked = []

    def run(asked, of):
        worked.extend(context.node_id for context in of)
        results = [plus_one(*pair) for pair in zip(asked, of, strict=True)]
        return [
            ValueError("its own") if context.node_id == 3 else r
            for r, context in zip(results, of, strict=True)
        ]

    results = coded_block(run, messages, contexts)
    assert worked == [1, 2, 3]
    assert isinstance(results[0], Message)
    assert isinstance(results[1], CodecError)
    assert isinstance(results[2], ValueError)
    assert blob_of(results[3].content["arrays"]) == b"before"
    assert isinstance(results[4], CodecError)
    assert [RECORD in context.state for context in contexts] == [True, False, False, True, False]


@pytest.mark.parametrize("vectorise", ["never", "always"])
def test_a_block_of_fedeffs_clients_codes_what_single_ones_do(vectorise):
    def data(partition, partitions):
        rng = np.random.default_rng(partition)
        return ClientData(rng.random((8, 1, 4, 4), np.float32), rng.integers(0, 4, 8))

    def model():
        return build("mlp", classes=4, input_shape=(1, 4, 4), seed=0)

    app = client_app(model, data, LocalTraining(steps=2, batch_size=4), vectorise=vectorise)
    arrays = {key: values.numpy() for key, values in model().state_dict().items()}
    messages = [message_of(arrays, node, up="raw", difference=True) for node in (1, 2, 3)]
    block = app.run_block(messages, [context_of(partition) for partition in range(3)])
    single = [app(message, context_of(partition)) for partition, message in enumerate(messages)]
    for one, two in zip(block, single, strict=True):
        assert Answer.of(one.content) == Answer.of(two.content)
        for key, values in decoded(two, "raw").items():
            np.testing.assert_allclose(decoded(one, "raw")[key], values, atol=1e-5)


def test_what_is_kept_is_written_and_read_back_beside_whatever_else_there_is():
    state = RecordDict({"own": ConfigRecord({"a": 1})})
    memories = {"arrays": {'odd "name".x': {"residual": ARRAYS["w"], "n": np.array(2.0)}}}
    replica = Replica({"arrays": ARRAYS, "control": {"w": ARRAYS["w"].T}})
    reply = {"arrays": coded_record(b"blob"), "metrics": ConfigRecord({"b": 2})}
    write_coding_state(state, CodingState(7, memories, replica, reply))
    found = read_coding_state(state)
    assert found.exchange == 7
    assert found.replica.digest == replica.digest
    assert {k: v.tolist() for k, v in found.memories["arrays"]['odd "name".x'].items()} == {
        "residual": ARRAYS["w"].tolist(),
        "n": 2.0,
    }
    assert found.reply == reply
    write_coding_state(state, CodingState())
    assert list(state) == ["own"]
    assert read_coding_state(state) == CodingState()
    state[RECORD] = ArrayRecord()
    assert read_coding_state(state) == CodingState()
