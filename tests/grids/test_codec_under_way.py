"""Messages that overlap, and runs that are cut and restored."""

import numpy as np
import pytest
from apps.coded import (
    ROWS,
    Direct,
    answers,
    arrays_of,
    asked,
    blobs_of,
    displaced,
    exchange,
    in_cycles,
    kept,
    model,
    told,
)

from fedeff.compression import RecordCodec
from fedeff.core.errors import ResumeError
from fedeff.core.flower import set_task_identity
from fedeff.core.layers import encode_record
from fedeff.core.state import StateStore
from fedeff.grids import CodecGrid

RAW, HALF = RecordCodec.of("raw"), RecordCodec.of('half("float16")')
FEEDBACK = RecordCodec.of("error_feedback(top_k(0.25))")
EF21 = RecordCodec.of("ef21(top_k(0.25))")
POWER = RecordCodec.of("error_feedback(power_sgd(1))")


@pytest.fixture(autouse=True, scope="module")
def _task():
    set_task_identity(1)


# --- pushed and pulled ----------------------------------------------------------------------------


def test_messages_under_way_to_one_client_are_decoded_in_the_order_of_its_answers():
    direct = Direct(1)
    grid = CodecGrid(direct, up=EF21)
    for _ in range(2):
        first, second = grid.push_messages(displaced(direct)), grid.push_messages(displaced(direct))
        for keys in (first, second):
            (reply,) = grid.pull_messages(keys)
            assert not reply.has_error()
    assert [one.after > 0 for one in answers(direct, 1, range(1, 5))] == [False, False, True, True]
    estimates = kept(direct, 1).memories["arrays"]
    assert np.array_equal(arrays_of(reply)["fc1.weight"], estimates["fc1.weight"]["estimate"])


def test_out_of_order_is_refused_and_mended():
    direct = Direct(1)
    grid = CodecGrid(direct, up=EF21)
    exchange(grid, displaced(direct))
    first, second = grid.push_messages(displaced(direct)), grid.push_messages(displaced(direct))
    (late,) = grid.pull_messages(second)
    assert "begin anew" in late.error.reason
    grid.pull_messages(first)
    for _ in range(2):
        (reply,) = exchange(grid, displaced(direct))
    assert not reply.has_error()


def test_what_could_not_be_pushed_is_forgotten():
    direct = Direct(1)
    grid = CodecGrid(direct, up=FEEDBACK)
    exchange(grid, displaced(direct))
    push, direct.push_messages = direct.push_messages, lambda messages: [None]
    assert list(grid.push_messages(displaced(direct))) == [None]
    direct.push_messages = push
    exchange(grid, displaced(direct))
    assert "after" not in told(direct, 1, 2)


def test_errors_that_name_no_node_are_known_by_the_message_they_answer():
    direct = Direct(1, {(1, 2): "raise"})
    grid = CodecGrid(direct, up=FEEDBACK)
    exchange(grid, displaced(direct))
    keys = list(grid.push_messages(displaced(direct)))
    direct.inbox[keys[0]].metadata.__dict__["_src_node_id"] = 77
    (reply,) = grid.pull_messages(keys)
    assert reply.has_error()
    exchange(grid, displaced(direct))
    assert "after" not in told(direct, 1, 3)


# --- a run that is cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"up": EF21}, {"up": POWER, "down": HALF, "down_difference": True}])
def test_a_run_cut_after_any_exchange_and_restored_sends_the_same_blobs(options, tmp_path):
    faults = {(1, 2): "reply", (3, 3): "raise"}

    def messages(direct, at):
        return asked(direct, [model(at), encode_record(ROWS)][at % 2], cycle=at // 2, cycle_round=at % 2)

    whole = Direct(3, faults, app=in_cycles)
    grid = CodecGrid(whole, session=0, **options)
    for at in range(6):
        exchange(grid, messages(whole, at))
    for cut in range(1, 6):
        direct, store = Direct(3, faults, app=in_cycles), StateStore(tmp_path / str(cut))
        grid = CodecGrid(direct, session=0, memories=store, **options)
        for at in range(cut):
            exchange(grid, messages(direct, at))
        store.checkpoint(cut)
        state = {key: np.array(values) for key, values in sorted(grid.state().items())}
        store = StateStore(tmp_path / str(cut))
        store.restore(cut)
        grid = CodecGrid(direct, session=0, memories=store, **options)
        grid.restore(state)
        for at in range(cut, 6):
            exchange(grid, messages(direct, at))
        for at in range(1, 7):
            assert blobs_of(direct, at) == blobs_of(whole, at), (cut, at)
            assert [told(direct, node, at) for node in (1, 2, 3)] == [
                told(whole, node, at) for node in (1, 2, 3)
            ]


def test_clients_with_a_message_under_way_begin_anew_in_a_restored_run():
    direct = Direct(2)
    grid = CodecGrid(direct, up=FEEDBACK, session=0)
    exchange(grid, displaced(direct))
    grid.push_messages(displaced(direct, [1]))
    again = CodecGrid(direct, up=FEEDBACK, session=0)
    again.restore(grid.state())
    assert not any(reply.has_error() for reply in exchange(again, displaced(direct)))
    assert "after" not in told(direct, 1, 3)
    assert told(direct, 2, 3)["after"] == told(direct, 2, 1)["exchange"]


@pytest.mark.parametrize("state", [{}, {"exchanges": np.array([1, 2])}, {"about": np.zeros(3, np.uint8)}])
def test_anothers_state_is_refused(state):
    with pytest.raises(ResumeError, match="start a new run"):
        CodecGrid(Direct(1), up=RAW).restore(state)
