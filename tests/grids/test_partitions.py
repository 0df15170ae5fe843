"""Nodes known by partition: whatever ids they have, and whichever they get after a restart."""

import pytest
from apps.loopback import LoopbackGrid
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedeff.clients.introduction import asks_for_introduction, introduction
from fedeff.core.errors import ConfigError
from fedeff.core.flower import error_reply
from fedeff.grids import LimitedGrid, PartitionGrid
from fedeff.grids.limited import content_bytes
from fedeff.grids.partitions import FIRST_NODE_ID
from fedeff.simulation.grid import FIRST_NODE_ID as OF_OUR_ENGINES

NODES = [FIRST_NODE_ID + partition for partition in range(3)]


def client(claims=None):
    """Answers with its partition, or with another one that it claims."""

    def app(message, context):
        if asks_for_introduction(message):
            return introduction(message, context)
        partition = context.node_config["partition-id"]
        told = MetricRecord({"partition-id": (claims or {}).get(partition, partition)})
        return Message(RecordDict({"metrics": told}), reply_to=message)

    return app


def made(app=None, clients=3):
    loop = LoopbackGrid(app or client(), clients, {})
    return loop, PartitionGrid(loop)


def messages(nodes):
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def answered(grid, nodes=NODES):
    """Our ids of those who answer, with the partition that each says it is."""
    replies = grid.send_and_receive(messages(nodes), timeout=1)
    return {
        reply.metadata.src_node_id: None if reply.has_error() else reply.content["metrics"]["partition-id"]
        for reply in replies
    }


def test_ids_are_those_of_our_engines():
    assert FIRST_NODE_ID == OF_OUR_ENGINES


def test_nodes_are_met_once_and_addressed_by_partition():
    loop, grid = made()
    assert grid.meet(10) == 3
    assert grid.get_node_ids() == NODES
    assert answered(grid) == dict(zip(NODES, range(3), strict=True))
    assert sorted(loop.asked) == sorted(
        [(partition, kind) for partition in range(3) for kind in ("query.introduction", "train")]
    )


def test_a_message_knows_its_id_and_a_pulled_reply_its_node():
    _, grid = made()
    grid.meet(10)
    sent = messages(NODES)
    ids = grid.push_messages(sent)
    assert [message.metadata.message_id for message in sent] == ids
    assert [message.metadata.dst_node_id for message in sent] == NODES
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(ids)] == NODES


def test_a_node_that_comes_back_under_another_id_is_the_same_to_us():
    loop, grid = made()
    grid.meet(10)
    loop.restart(1)
    assert grid.get_node_ids() == [NODES[0], NODES[2]]  # it is asked now
    assert answered(grid) == {NODES[0]: 0, NODES[2]: 2}  # and is sent nothing until it has answered
    assert grid.get_node_ids() == NODES
    assert answered(grid) == dict(zip(NODES, range(3), strict=True))


def test_of_two_nodes_with_a_partition_the_newest_has_it():
    loop, grid = made()
    grid.meet(10)
    loop._contexts |= {7: loop._contexts[list(loop._contexts)[1]]}
    assert grid.get_node_ids() == NODES
    assert grid.get_node_ids() == NODES
    grid.send_and_receive(messages(NODES[1:2]))
    assert loop.asked[-1] == (1, "train")
    assert grid._nodes({7}) == {NODES[1]: 7}


def test_one_that_is_not_there_is_not_waited_for_for_ever():
    loop, grid = made()
    loop.gone = {2}
    assert grid.meet(0.1) == 3
    assert grid.get_node_ids() == NODES[:2]
    loop.gone = set()
    grid.get_node_ids()
    assert grid.get_node_ids() == NODES


def test_nobody_is_an_error():
    loop, grid = made()
    loop.gone = {0, 1, 2}
    with pytest.raises(ConfigError, match="no client has come within 0 s"):
        grid.meet(0)


def test_who_claims_anothers_partition_is_refused():
    _, grid = made(client({1: 2}))
    grid.meet(10)
    assert answered(grid) == {NODES[0]: 0, NODES[1]: None, NODES[2]: 2}
    ((node, reason),) = LimitedGrid(grid, 1000).take_refused()
    assert (node, reason) == (NODES[1], "the reply of partition 1 claims to be of partition 2")
    assert grid.take_refused() == []


def test_an_error_names_the_node_that_it_is_about():
    loop, grid = made()
    grid.meet(10)
    sent = messages(NODES[1:2])
    loop.restart(1)  # between the draw and the sending; the SuperLink knows the old id no more
    grid.get_node_ids = lambda: NODES
    assert grid.send_and_receive(sent) == []


def test_clients_that_do_not_say_are_left_out_and_asked_ever_less_often(caplog):
    def silent(message, context):
        raise ValueError("no such handler")

    now_s = 0.0
    loop = LoopbackGrid(silent, 1, {})
    grid = PartitionGrid(loop, now_s=lambda: now_s)
    with pytest.raises(ConfigError, match="no client"):
        grid.meet(0)
    asked_at_s = []
    for second in range(100):
        before, now_s = len(loop.asked), float(second)
        assert grid.get_node_ids() == []
        if len(loop.asked) > before:
            asked_at_s.append(second)
    assert asked_at_s == [5, 16, 37, 78]  # 5, 10, 20, 40 s after each answer was read
    assert "left out for now: no such handler" in caplog.text


def test_a_node_that_does_not_answer_is_asked_again():
    loop, grid = made()
    loop.dead = {0, 1, 2}
    assert grid.get_node_ids() == []
    loop.dead = set()
    assert grid.get_node_ids() == []
    for key in grid._asked:  # the SuperLink answers so once the question has expired
        loop._replies[key] = error_reply(messages([1])[0], 1, "expired")
        loop._replies[key].metadata.__dict__["_reply_to_message_id"] = key
    grid.get_node_ids()
    grid._rests.clear()
    grid.get_node_ids()
    assert grid.get_node_ids() == NODES


def test_an_introduction_needs_both_numbers(tmp_path):
    loop, _ = made()
    context = next(iter(loop._contexts.values()))
    del context.node_config["num-partitions"]
    (question,) = messages([1])
    with pytest.raises(ConfigError, match="partition-id=N num-partitions=M"):
        introduction(question, context)


def test_a_reply_over_the_limit_is_an_error_and_one_at_it_passes():
    def large(message, context):
        partition = context.node_config["partition-id"]
        content = RecordDict({"arrays": ArrayRecord({}), "config": ConfigRecord({"x": b"." * partition})})
        return Message(content, reply_to=message)

    loop = LoopbackGrid(large, 3, {})
    nodes = loop.get_node_ids()
    fits = content_bytes(large(messages([1])[0], loop._contexts[nodes[1]]).content)
    grid = LimitedGrid(loop, fits)
    replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages(nodes))}
    assert [replies[node].has_error() for node in nodes] == [False, False, True]
    assert grid.take_refused() == [
        (nodes[2], f"the reply of node {nodes[2]} has {fits + 1} bytes, the limit is {fits}")
    ]
    pulled = grid.pull_messages(grid.push_messages(messages(nodes)))
    assert sorted(reply.has_error() for reply in pulled) == [False, False, True]
    with pytest.raises(ConfigError, match="limit_bytes is 0"):
        LimitedGrid(loop, 0)
