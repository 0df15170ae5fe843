"""A Grid whose replies and messages travel coded: what strategies see, what travels, what is refused."""

import logging

import numpy as np
import pytest
from apps.coded import SHAPES, Direct, arrays_of, asked, blobs_of, exchange, model, moved, told, uplink
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedeff.clients.coding_state import read_coding_state
from fedeff.compression import RecordCodec
from fedeff.core.errors import ConfigError
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import decode_record, encode_record, payload_bytes
from fedeff.grids import CodecGrid, Cohort, MeteredGrid
from fedeff.grids.instructions import RECORD, blob_of

RAW, TERN, TOP = RecordCodec.of("raw"), RecordCodec.of("tern_grad"), RecordCodec.of("top_k(0.25)")
HALF = RecordCodec.of('half("float16")')


@pytest.fixture(autouse=True, scope="module")
def _task():
    set_task_identity(1)


def trained(node, times=1, seed=0):
    return {key: moved(values, node, times) for key, values in decode_record(model(seed)).items()}


def close(one, two, atol=1e-6):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], atol=atol, rtol=1e-6)


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("streams", [False, True])
def test_strategies_see_what_clients_gave(difference, streams):
    direct = Direct(3)
    messages = asked(direct, model(), server_round=1)
    replies = exchange(
        CodecGrid(direct, up=RAW, difference=difference), Cohort(messages) if streams else messages
    )
    for node, reply in enumerate(replies, 1):
        assert reply.metadata.src_node_id == node
        assert set(reply.content) == {"arrays", "metrics"}
        assert reply.content["metrics"] == MetricRecord({"num-examples": 1 + node % 3, "partition-id": node})
        close(arrays_of(reply), trained(node), atol=1e-6 if difference else 0)


def test_the_strategys_own_messages_stay_as_they_are_but_for_the_grids_ids():
    direct = Direct(2)
    messages = asked(direct, model())
    CodecGrid(direct, up=TERN).push_messages(messages)
    assert [message.metadata.message_id for message in messages] == ["m1", "m2"]
    assert all(set(message.content) == {"arrays", "config"} for message in messages)


def test_what_is_counted_is_what_was_coded():
    direct = Direct(3)
    metered = MeteredGrid(direct)
    exchange(CodecGrid(metered, up=TERN), asked(direct, model()))
    blobs = blobs_of(direct, 1)
    assert metered.exchanges[0].uplink_bytes == sum(map(len, blobs)) == uplink(direct, 1)
    assert metered.exchanges[0].uplink_bytes < 3 * payload_bytes(model()) / 5


def test_who_is_told_the_same_shares_one_content():
    direct = Direct(4)
    exchange(CodecGrid(direct, up=TERN), asked(direct, model()))
    assert len({id(content) for content in direct.contents.values()}) == 1
    assert direct.contents[1, 1]["arrays"] is direct.contents[4, 1]["arrays"]


def test_codecs_that_remember_nothing_leave_nothing_in_a_clients_state():
    direct = Direct(2)
    grid = CodecGrid(direct, up=TERN)
    for _ in range(2):
        exchange(grid, asked(direct, model()))
    assert all(set(context.state) == {"count"} for context in direct.contexts.values())
    assert "after" not in told(direct, 1, 2)


def test_clients_draw_apart_and_anew_in_every_exchange_and_alike_when_repeated():
    def blobs():
        direct = Direct(2, app=lambda message, context: Message(message.content, reply_to=message))
        grid = CodecGrid(direct, up=TERN, difference=False, seed=3)
        for _ in range(2):
            exchange(grid, asked(direct, model()))
        return [*blobs_of(direct, 1), *blobs_of(direct, 2)]

    once = blobs()
    assert len(set(once)) == 4
    assert once == blobs()


@pytest.mark.parametrize("config", [{"reply_with": "displacement"}, {"procedure": "accumulate"}])
def test_replies_that_are_no_weights_are_not_told_as_differences(config):
    direct = Direct(1)
    (reply,) = exchange(CodecGrid(direct, up=RAW), asked(direct, model(), **config))
    assert "difference" not in told(direct, 1, 1)
    expected = trained(1)
    if "reply_with" in config:
        expected = {key: values - decode_record(model())[key] for key, values in expected.items()}
    close(arrays_of(reply), expected, atol=0)


def test_a_reply_of_the_expected_layout_leaves_it_out():
    direct = Direct(1)
    grid = CodecGrid(direct, up=TERN)
    exchange(grid, asked(direct, model()))
    exchange(grid, asked(direct, model(), layers_due=["fc2.weight"]))
    ((blob,), (part,)) = blobs_of(direct, 1), blobs_of(direct, 2)
    assert b"fc1" not in blob + part
    assert len(part) < 70


def test_a_reply_of_another_layout_says_which():
    def other(message, context):
        return Message(RecordDict({"arrays": encode_record({"more": np.ones(3)})}), reply_to=message)

    direct = Direct(1, app=other)
    (reply,) = exchange(CodecGrid(direct, up=RAW), asked(direct, model()))
    assert b"more" in blobs_of(direct, 1)[0]
    close(arrays_of(reply), {"more": np.ones(3)}, atol=0)


def test_several_records_are_coded_one_by_one_and_foreign_ones_are_left_alone():
    trees = ArrayRecord({"tree": Array(dtype="bytes", shape=(3,), stype="json", data=b"{} ")})

    def app(message, context):
        content = {"model": message.content["arrays"], "control": message.content["control"], "trees": trees}
        return Message(RecordDict({**content, "said": ConfigRecord({"a": 1})}), reply_to=message)

    direct = Direct(1, app=app)
    content = {"arrays": model(), "control": model(1), "trees": trees}
    message = Message(RecordDict(content), dst_node_id=1, message_type="train")
    (reply,) = exchange(CodecGrid(direct, up=RAW), [message])
    close(dict(decode_record(reply.content["model"])), dict(decode_record(model())), atol=0)
    close(dict(decode_record(reply.content["control"])), dict(decode_record(model(1))), atol=0)
    assert reply.content["trees"]["tree"].data == b"{} "
    assert reply.content["said"] == ConfigRecord({"a": 1})


def test_evaluations_and_queries_pass_unless_models_go_down_coded():
    direct = Direct(1, app=lambda message, context: Message(message.content, reply_to=message))
    for down, coded in ((None, []), (HALF, ["evaluate"])):
        found = []
        for kind in ("evaluate", "query"):
            content = RecordDict({"arrays": model()})
            exchange(CodecGrid(direct, up=RAW, down=down), [Message(content, 1, kind)])
            if RECORD in direct.contents[1, direct.exchanges]:
                found.append(kind)
        assert found == coded


@pytest.mark.parametrize("fault", ["flip", "raise"])
def test_one_clients_fault_is_that_clients_alone(fault, caplog):
    direct = Direct(3, {(2, 1): fault})
    grid = CodecGrid(direct, up=TERN)
    replies = exchange(grid, asked(direct, model()))
    assert direct.fired[fault] == 1
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].metadata.src_node_id == 2
    if fault == "flip":
        ((node, reason),) = grid.take_refused()
        assert node == 2
        assert "checksum" in reason
        assert reason == replies[1].error.reason
        assert caplog.messages == [reason]
    assert grid.take_refused() == []
    assert not any(reply.has_error() for reply in exchange(grid, asked(direct, model())))


def test_a_client_that_is_asked_twice_at_once_answers_both():
    direct = Direct(2)
    grid = CodecGrid(direct, up=RecordCodec.of("error_feedback(top_k(0.25))"))
    for _ in range(2):
        replies = exchange(grid, [*asked(direct, model()), *asked(direct, model(), [1])])
        assert [reply.has_error() for reply in replies] == [False] * 3


def test_clients_without_the_mod_are_taken_as_they_are_with_a_word(caplog):
    direct = Direct(2)
    direct._called = lambda message, fault: direct.app(message, direct_context(message))
    grid = CodecGrid(direct, up=TERN)
    with caplog.at_level(logging.WARNING):
        replies = exchange(grid, asked(direct, model()))
    close(arrays_of(replies[1]), trained(2), atol=0)
    assert len(caplog.messages) == 1
    assert "mods=[codec_mod]" in caplog.text


def direct_context(message):
    from flwr.app import Context

    return Context(1, message.metadata.dst_node_id, {}, RecordDict(), {})


def test_a_cohort_that_is_to_be_summed_on_the_workers_is_refused_by_name():
    class Sum:
        def add(self, total, reply): ...

        def merge(self, total, other): ...

    direct = Direct(1)
    grid = CodecGrid(direct, up=TERN)
    with pytest.raises(ConfigError, match="'tern_grad' are decoded on the server"):
        grid.send_and_receive(Cohort(asked(direct, model()), Sum()))
    assert direct.exchanges == 0
    content = RecordDict({"config": ConfigRecord()})
    grid.send_and_receive(Cohort([Message(content, 1, "query")], Sum()))
    CodecGrid(direct, down=HALF).send_and_receive(Cohort(asked(direct, model()), Sum()))


def test_scales_are_those_of_the_round_before():
    direct = Direct(3)
    grid = CodecGrid(direct, up=TERN, share_scales=True, difference=False)
    exchange(grid, asked(direct, model()))
    assert "scales" not in told(direct, 1, 1)
    exchange(grid, asked(direct, model()))
    shared = dict(zip(told(direct, 1, 2)["scaled-arrays"], told(direct, 1, 2)["scales"], strict=True))
    for name, scale in shared.items():
        own = [trained(node)[name].astype(np.float64) for node in (1, 2, 3)]
        expected = max(min(np.abs(x).max(), 2.5 * np.sqrt(np.mean(x**2))) for x in own)
        assert scale == pytest.approx(expected, rel=1e-5)
    second = exchange(grid, asked(direct, model()))
    levels = {name: {float(abs(v)) for r in second for v in arrays_of(r)[name].flat} for name in shared}
    assert all(len(values) <= 2 for values in levels.values())  # nothing, and one scale for all
    assert not any("shared-scale" in str(read_coding_state(c.state)) for c in direct.contexts.values())


def test_a_model_that_goes_down_coded_is_the_one_that_clients_train_from():
    direct = Direct(3)
    grid = CodecGrid(direct, up=RAW, down=HALF)
    replies = exchange(grid, asked(direct, model()))
    received = {k: v.astype(np.float16).astype(v.dtype) for k, v in decode_record(model()).items()}
    for node, reply in enumerate(replies, 1):
        close(arrays_of(reply), {key: moved(values, node, 1) for key, values in received.items()})
    blobs = {id(blob_of(content["arrays"])) for content in direct.contents.values()}
    assert len(blobs) == 1
    assert payload_bytes(direct.contents[1, 1]) < payload_bytes(model()) / 2 + 100


def test_a_correction_goes_down_as_it_is():
    direct = Direct(1)
    correction = encode_record({"fc1.bias": np.ones(12, np.float32)})
    (message,) = asked(direct, model(), cycle=1)
    content = RecordDict({**message.content, "correction": correction})
    exchange(CodecGrid(direct, down=TERN), [Message(content, 1, "train")])
    assert direct.contents[1, 1]["correction"] is correction
    assert blob_of(direct.contents[1, 1]["arrays"]) is not None


def test_a_codec_with_a_memory_cannot_go_down():
    grid = CodecGrid(Direct(1), down=RecordCodec.of("error_feedback(top_k(0.5))"))
    with pytest.raises(ConfigError, match=r"'error_feedback\(top_k\(0.5\)\)' remembers"):
        exchange(grid, asked(grid, model()))


@pytest.mark.parametrize("options", [{"down_difference": True}, {"session": -1}, {"session": 2**30}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        CodecGrid(Direct(1), up=RAW, **options)


def test_the_grid_beneath_is_reached():
    direct = Direct(2)
    direct.colour = "blue"
    grid = CodecGrid(direct, up=RAW)
    assert (grid.colour, list(grid.get_node_ids())) == ("blue", [1, 2])
    assert set(SHAPES) == set(arrays_of(exchange(grid, asked(grid, model()))[0]))
