"""A tap shows every pair to its listener and changes nothing, however messages are sent."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedeff.core.layers import decode_record, encode_record
from fedeff.grids import Cohort, Folded, TapGrid
from fedeff.simulation import run_simulation
from fedeff.strategies.weighted_sum import WeightedSum, layout_of

MODEL = encode_record({"w": np.arange(3, dtype=np.float32)})


@dataclass
class Listener:
    """Keeps what it hears."""

    asked: list[int] = field(default_factory=list)
    pairs: list[tuple[Message, Message]] = field(default_factory=list)
    sums: list[tuple[tuple[Message, ...], Folded]] = field(default_factory=list)

    def asking(self, messages):
        self.asked += [message.metadata.dst_node_id for message in messages]

    def answered(self, sent, reply):
        self.pairs.append((sent, reply))

    def summed(self, sent, total):
        self.sums.append((sent, total))


def client() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message, context):
        partition = context.node_config["partition-id"]
        if partition == 2:
            raise ValueError("a client that fails")
        scale = message.content["config"]["scale"]
        values = decode_record(message.content["arrays"])["w"] * scale + partition
        told = MetricRecord({"num-examples": 1, "partition-id": partition})
        return Message(RecordDict({"arrays": encode_record({"w": values}), "m": told}), reply_to=message)

    return app


def messages(grid, scales=(1.0,)) -> list[Message]:
    return [
        Message(RecordDict({"arrays": MODEL, "config": ConfigRecord({"scale": scale})}), node, "train")
        for node in grid.get_node_ids()
        for scale in scales
    ]


def tapped(use, tap: bool):
    """What a server app gets that sends by `use`, with and without a tap on its grid."""
    listener, got, server = Listener(), [], ServerApp()

    @server.main()
    def main(grid, context):
        got.extend(use(grid))

    def wrapped(grid):
        return TapGrid(grid, listener) if tap else grid

    run_simulation(server, client(), 4, engine="inline", meter=wrapped)
    return got, listener


def pushed(grid):
    ids = list(grid.push_messages(messages(grid, (1.0, 2.0))))
    found = []
    while len(found) < len(ids):
        found += list(grid.pull_messages(ids))
    return found


WAYS = {
    "list": lambda grid: grid.send_and_receive(messages(grid)),
    "generator": lambda grid: grid.send_and_receive(m for m in messages(grid)),
    "stream": lambda grid: grid.send_and_receive(Cohort(messages(grid))),
    "push": pushed,
}


def told(reply: Message):
    return reply.metadata.src_node_id, None if reply.has_error() else decode_record(reply.content["arrays"])[
        "w"
    ]


@pytest.mark.parametrize("way", WAYS)
def test_every_pair_is_shown_and_nothing_is_changed(way):
    plain, _ = tapped(WAYS[way], tap=False)
    got, listener = tapped(WAYS[way], tap=True)
    for one, other in zip(plain, got, strict=True):
        assert told(one)[0] == told(other)[0]
        np.testing.assert_equal(told(one)[1], told(other)[1])
    assert [reply for _, reply in listener.pairs] == got  # in the same order, the very same objects
    assert len(listener.asked) == len(listener.pairs)
    for sent, reply in listener.pairs:
        assert reply.metadata.src_node_id == sent.metadata.dst_node_id
        if reply.has_content():  # two messages to one client are not mixed up
            partition = reply.metadata.src_node_id - min(listener.asked)
            scale = sent.content["config"]["scale"]
            np.testing.assert_array_equal(told(reply)[1], np.arange(3) * scale + partition)
    assert sum(reply.has_error() for _, reply in listener.pairs) == len(got) // 4


def test_a_sum_is_shown_with_the_messages_that_it_answers():
    fold = WeightedSum(layout_of(ArrayRecord({"w": MODEL["w"]})))
    got, listener = tapped(lambda grid: grid.send_and_receive(Cohort(messages(grid), fold)), tap=True)
    assert [total for _, total in listener.sums] == [one for one in got if isinstance(one, Folded)]
    assert all(len(sent) == 4 for sent, _ in listener.sums)
    assert len(listener.pairs) == 1  # the error travels alone


def test_a_stream_that_is_given_up_is_closed():
    def first(grid):
        replies = grid.send_and_receive(Cohort(messages(grid)))
        found = [next(iter(replies))]
        replies.close()
        return found

    got, listener = tapped(first, tap=True)
    assert len(got) == len(listener.pairs) == 1
