"""What clients hold of what they were sent, in cycles and for differences on the way down."""

import numpy as np
import pytest
from apps.coded import ROWS, Direct, answers, arrays_of, asked, exchange, in_cycles, kept, model, moved, told
from flwr.app import Message, RecordDict

from fedeff.compression import RecordCodec
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.parts import put
from fedeff.grids import CodecGrid
from fedeff.grids.instructions import blob_of

RAW, HALF = RecordCodec.of("raw"), RecordCodec.of('half("float16")')
FEEDBACK = RecordCodec.of("error_feedback(top_k(0.25))")
EF21 = RecordCodec.of("ef21(top_k(0.25))")
POWER = RecordCodec.of("error_feedback(power_sgd(1))")


@pytest.fixture(autouse=True, scope="module")
def _task():
    set_task_identity(1)


# --- cycles ---------------------------------------------------------------------------------------


def cycle(direct, at, nodes=None, number=1):
    """The messages of a cycle's rounds: the whole model, a part of it, nothing."""
    arrays = [model(), encode_record(ROWS), encode_record({})][at]
    return asked(direct, arrays, nodes, cycle=number, cycle_round=at)


def test_within_a_cycle_differences_are_to_what_was_sent_before():
    direct = Direct(2, app=in_cycles)
    grid = CodecGrid(direct, up=RecordCodec.of("tern_grad"))
    expected = dict(decode_record(model()))
    for at in range(3):
        if at == 1:
            expected = put({key: values + 1 for key, values in expected.items()}, ROWS)
            expected = {key: values + 1 for key, values in expected.items()}
        else:
            expected = {key: values + 1 for key, values in expected.items()}
        for reply in exchange(grid, cycle(direct, at)):
            for key, values in arrays_of(reply).items():  # a difference of equal values is coded exactly
                if at == 0 or key == "fc2.weight":
                    np.testing.assert_allclose(values, expected[key], atol=1e-5)
        assert told(direct, 1, at + 1).get("builds-on", False) == (at > 0)
        assert answers(direct, 1, [at + 1])[0].compact
    held = kept(direct, 1).replica.records["arrays"]
    assert (held["fc1.weight"][:4] == 9).all()
    assert np.array_equal(held["fc1.weight"][4:], decode_record(model())["fc1.weight"][4:])


def test_a_new_cycle_begins_with_what_its_first_message_brings():
    direct = Direct(1, app=in_cycles)
    grid = CodecGrid(direct, up=RAW)
    exchange(grid, cycle(direct, 0))
    exchange(grid, cycle(direct, 0, number=2))
    assert "builds-on" not in told(direct, 1, 2)
    exchange(grid, cycle(direct, 1, number=2))
    assert told(direct, 1, 3)["builds-on"]


@pytest.mark.parametrize("fault", ["request", "reply", "forget"])
def test_who_lost_step_sends_arrays_as_they_are_until_it_has_them_again(fault):
    direct = Direct(2, {(1, 2): fault}, app=in_cycles)
    grid = CodecGrid(direct, up=RAW)
    exchange(grid, cycle(direct, 0))
    replies = exchange(grid, cycle(direct, 1))
    assert replies[-1].metadata.src_node_id == 2
    (whole, other) = exchange(grid, asked(direct, model(), cycle=1, cycle_round=0))
    assert not whole.has_error()
    assert not other.has_error()
    assert "builds-on" not in told(direct, 1, 3)
    assert told(direct, 2, 3)["builds-on"]
    exchange(grid, cycle(direct, 1))
    assert told(direct, 1, 4)["builds-on"]


def test_a_client_that_holds_other_arrays_than_it_was_sent_is_refused_once():
    direct = Direct(2, app=in_cycles)
    grid = CodecGrid(direct, up=RAW)
    exchange(grid, cycle(direct, 0))
    state = direct.contexts[1].state
    (name,) = [name for name in state if name.endswith(".replica")]
    spoilt = {key: values + (values.dtype.kind == "f") for key, values in decode_record(state[name]).items()}
    state[name] = encode_record(spoilt)
    bad, good = exchange(grid, cycle(direct, 1))
    assert "other arrays than it was sent" in bad.error.reason
    assert not good.has_error()
    assert [node for node, _ in grid.take_refused()] == [1]
    assert not any(reply.has_error() for reply in exchange(grid, cycle(direct, 0)))


# --- down-difference ------------------------------------------------------------------------------


def down(direct, up=None, codec=HALF):
    return CodecGrid(direct, up=up, down=codec, down_difference=True)


@pytest.mark.parametrize("codec", [HALF, RecordCodec.of("tern_grad")], ids=lambda codec: codec.spec)
def test_what_goes_down_is_the_difference_to_what_clients_hold(codec):
    direct, held = Direct(2), {}
    grid = down(direct, codec=codec, up=RAW)
    for at in range(1, 5):
        replies = exchange(grid, asked(direct, model(at)))
        replica = kept(direct, 1).replica
        assert replica.digest == kept(direct, 2).replica.digest
        assert (blob_of(direct.contents[1, at]["arrays"]) is None) == (at == 1)
        held = dict(replica.records["arrays"])
        for node, reply in enumerate(replies, 1):
            expected = {key: moved(values, node, at) for key, values in held.items()}
            for key, values in arrays_of(reply).items():
                np.testing.assert_allclose(values, expected[key], atol=1e-6)
    if codec is HALF:
        for key, values in decode_record(model(4)).items():
            np.testing.assert_allclose(held[key], values, atol=0.01)
    assert direct.contents[1, 4]["arrays"] is direct.contents[2, 4]["arrays"]


@pytest.mark.parametrize("fault", ["request", "reply", "raise"])
def test_whoever_is_not_known_to_hold_it_gets_the_model_as_it_is(fault):
    direct = Direct(2, {(1, 2): fault})
    grid = down(direct)
    for at in range(1, 5):
        exchange(grid, asked(direct, model(at)))
    coded = {
        node: [blob_of(direct.contents[node, at]["arrays"]) is not None for at in range(1, 5)]
        for node in (1, 2)
    }
    assert coded == {1: [False, True, False, True], 2: [False, True, True, True]}


def test_a_client_that_lost_what_it_held_says_so_and_gets_it_again():
    direct = Direct(2, {(1, 3): "forget"})
    grid = down(direct)
    replies = [exchange(grid, asked(direct, model(at))) for at in range(1, 5)]
    assert [[reply.has_error() for reply in each] for each in replies] == [
        [False, False],
        [False, False],
        [True, False],
        [False, False],
    ]
    assert "does not hold" in replies[2][0].error.reason


def test_evaluations_bring_the_model_too():
    direct = Direct(1, app=lambda message, context: Message(RecordDict(), reply_to=message))
    grid = down(direct, up=FEEDBACK)
    for kind in ("train", "evaluate", "train"):
        (reply,) = exchange(grid, [Message(RecordDict({"arrays": model()}), 1, kind)])
        assert not reply.has_error()
    assert "up" not in told(direct, 1, 2)
    assert blob_of(direct.contents[1, 3]["arrays"]) is not None


def test_a_model_of_other_shapes_goes_down_as_it_is():
    direct = Direct(1)
    grid = down(direct)
    exchange(grid, asked(direct, model()))
    small = {"fc1.weight": np.ones((3, 5), np.float32), "fc2.weight": np.ones((4, 12), np.float32)}
    exchange(grid, asked(direct, encode_record(small)))
    assert blob_of(direct.contents[1, 2]["arrays"]) is None
    exchange(grid, asked(direct, encode_record(small)))
    assert blob_of(direct.contents[1, 3]["arrays"]) is not None
