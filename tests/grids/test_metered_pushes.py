"""What the meter counts of messages that are pushed and pulled: by kind, to the last one, in whose round."""

import pytest
from apps.echoing import DROPPED, FAILED, Clock, Echo, bytes_in, error_to, fates, reply_to, request, sizes
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_ins_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.flower import set_task_identity
from fedeff.grids.metered import MeteredGrid


@pytest.fixture(autouse=True, scope="module")
def task():
    set_task_identity(1)


EXPIRED = "expired"
UNSENT = ("None is given for it", "it is left out")  # as the Grids of Flower do


def expired(message):
    """What a SuperLink answers for a message that nobody answered in its time: of no kind that was sent."""
    return create_message_error_unavailable_ins_message(message.metadata.message_id, run_id=1)


fates_of_pushes = fates | st.sampled_from([EXPIRED, *UNSENT])


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(
        st.tuples(sizes, fates_of_pushes, st.sampled_from(["train", "evaluate"])), min_size=1, max_size=9
    ),
    data=st.data(),
)
def test_pushes_and_pulls_add_up(plan, data):
    def answer(message):
        fate = plan[message.metadata.dst_node_id][1]
        if fate == DROPPED:
            return None
        if fate == EXPIRED:
            return expired(message)
        return error_to(message) if fate == FAILED else reply_to(message, fate)

    records = []
    echo = Echo(answer)
    echo.unsendable = {node: fate == UNSENT[0] for node, (_, fate, _) in enumerate(plan) if fate in UNSENT}
    grid = MeteredGrid(echo, records.append)
    messages = [request(node, down, kind) for node, (down, _, kind) in enumerate(plan)]
    pulled = []
    cut = data.draw(st.integers(0, len(plan)))
    for part in (messages[:cut], messages[cut:]):
        ids = list(grid.push_messages(part))
        half = data.draw(st.integers(0, len(ids)))
        for some in (ids[:half], ids[half:], ids):
            pulled += grid.pull_messages(some)
    grid.close()
    grid.close()
    total = {
        name: sum(getattr(record, name) for record in records)
        for name in ("sent", "arrived", "errors", "missing", "uplink_bytes", "downlink_bytes")
    }
    arrived = [reply for reply in pulled if reply.has_content()]
    assert total == {
        "sent": len(plan),
        "arrived": len(arrived),
        "errors": sum(fate in (FAILED, EXPIRED, *UNSENT) for _, fate, _ in plan),
        "missing": sum(fate == DROPPED for _, fate, _ in plan),
        "uplink_bytes": sum(bytes_in(reply.content) for reply in arrived),
        "downlink_bytes": sum(bytes_in(message.content) for message in echo.received),
    }
    sent = {kind: sum(one.sent for one in records if one.kind == kind) for kind in ("train", "evaluate")}
    answered = {
        kind: sum(one.arrived + one.errors + one.missing for one in records if one.kind == kind)
        for kind in sent
    }
    assert answered == sent
    assert sum(sent.values()) == len(plan)


def test_pulls_that_bring_nothing_leave_no_record():
    grid = MeteredGrid(Echo(reply_to))
    ids = list(grid.push_messages([request(1, server_round=3)]))
    grid.pull_messages([])
    grid.pull_messages(ids)
    grid.pull_messages(ids)
    sent, pulled = grid.exchanges
    assert (sent.sent, sent.arrived, sent.server_round) == (1, 0, 3)
    assert (pulled.sent, pulled.arrived, pulled.server_round) == (0, 1, 3)
    assert sent.pushed
    assert pulled.pushed


def test_an_expired_message_is_an_error_of_its_own_kind_in_its_own_round():
    grid = MeteredGrid(Echo(expired))
    ids = list(grid.push_messages([request(1, server_round=3), request(2, server_round=3)]))
    grid.pull_messages(ids)
    grid.close()
    pulled = grid.exchanges[-1]
    assert (pulled.kind, pulled.errors, pulled.arrived, pulled.server_round) == ("train", 2, 0, 3)
    assert sum(one.missing for one in grid.exchanges) == 0


def test_a_message_that_could_not_be_pushed_is_an_error_at_once_and_costs_no_bytes():
    echo = Echo(reply_to)
    echo.unsendable = {1: True, 2: False}
    grid = MeteredGrid(echo)
    message = request(3)
    assert list(grid.push_messages([request(1), request(2), message])) == [None, "message-3"]
    (record,) = grid.exchanges
    assert (record.sent, record.errors, record.missing) == (3, 2, 0)
    assert record.downlink_bytes == bytes_in(message.content)


def test_a_wait_in_vain_is_recorded_by_the_pull_that_ends_it():
    clock = Clock()
    grid = MeteredGrid(Echo(lambda message: None), clock=clock)
    grid.push_messages([request(1, server_round=3), request(2, kind="evaluate", server_round=3)])
    clock.now_s = 2.5
    grid.pull_messages([])
    grid.pull_messages([])
    waited = grid.exchanges[-1]
    assert (waited.kind, waited.server_round, waited.virtual_s) == ("train", 3, 2.5)
    assert (waited.sent, waited.arrived, waited.errors, waited.missing) == (0, 0, 0, 0)
    assert len(grid.exchanges) == 3
    clock.now_s = 4.0
    grid.close()
    assert sum(one.virtual_s for one in grid.exchanges) == clock.now_s
    assert sum(one.missing for one in grid.exchanges) == 2


def test_the_virtual_seconds_of_all_records_are_what_the_clock_went_on():
    """It counts from the first sending: a resumed run sets its clock before that."""
    clock = Clock()
    grid = MeteredGrid(Echo(reply_to, lazy=True, clock=clock), clock=clock)
    clock.now_s = 100.0
    ids = list(grid.push_messages([request(1)]))
    clock.now_s += 2.0  # a wait in vain, of which no pull tells
    list(grid.send_and_receive([request(2, kind="evaluate")]))
    grid.pull_messages(ids)
    assert sum(one.virtual_s for one in grid.exchanges) == clock.now_s - 100.0
