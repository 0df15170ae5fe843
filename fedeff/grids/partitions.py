"""A Grid whose nodes are known by the partitions they hold, whatever ids a SuperLink gave them."""

import logging
import time
from collections.abc import Callable, Iterable

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError
from fedeff.core.flower import REPLY_UNAVAILABLE, message_from, metadata_of, set_message_id, with_error
from fedeff.grids.passing import PassingGrid

__all__ = ["FIRST_NODE_ID", "INTRODUCTION", "PARTITION", "PARTITIONS", "PartitionGrid"]

FIRST_NODE_ID = 1_000_000  # of partition 0; node ids ascend with partition ids, as in our engines
INTRODUCTION = "query.introduction"  # the type of message that asks a client which partition it holds
PARTITION, PARTITIONS = "partition-id", "num-partitions"

_ANSWER_S = 120.0  # for which an answer is waited for; a node that was too busy is asked again
_AGAIN_S, _AGAIN_MOST_S = 5.0, 600.0  # before a node is asked again, twice as long each time
_POLL_S = 0.5
_log = logging.getLogger(__name__)


class PartitionGrid(PassingGrid):
    """Another Grid, above which a node's id is `FIRST_NODE_ID` plus the partition that it holds.

    A SuperLink gives nodes random ids, and others after a restart. So each node is asked once which
    partition it holds (clients answer with `fedeff.clients.introduction`); until it has answered it is not
    there. Whatever lies above, seeded draws, cycles, memories of codecs, checkpoints, then goes by partition
    and survives a restart of nodes and of the SuperLink. Where two nodes claim a partition, the one that
    came last has it: as a rule the other one is dead, and the SuperLink does not know it yet.

    Errors name the node that they are about, also those that the SuperLink answers in its place. A reply
    that claims another partition than its node's becomes an error, see `take_refused`. It is not good for
    clients that hold no partition: they are never there.
    """

    def __init__(self, grid: Grid, *, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(grid)
        self._now_s = now_s
        self.clients = 0  # partitions in all, as the clients say; 0 while none has
        self._partitions: dict[int, int] = {}  # by node id of the SuperLink
        self._asked: dict[str, int] = {}  # node by id of the message that asks it
        self._rests: dict[int, tuple[float, float]] = {}  # until when a node is not asked again, and how long
        self._sent: dict[str, int] = {}  # by message id: our id of the node that it went to
        self._refused: list[tuple[int, str]] = []

    def meet(self, wait_s: float) -> int:
        """How many partitions there are, once a node for each of them is there or the time is over.

        Raises:
            ConfigError: if not one client has come in that time.
        """
        ends_s = time.monotonic() + wait_s
        while (here := len(self.get_node_ids())) < max(self.clients, 1) and time.monotonic() < ends_s:
            time.sleep(_POLL_S)
        if not here:
            raise ConfigError(f"no client has come within {wait_s:g} s; start SuperNodes, or wait longer")
        if here < self.clients:
            _log.warning("%d of %d clients are there after %g s", here, self.clients, wait_s)
        return self.clients

    def get_node_ids(self) -> list[int]:
        """Our ids of the nodes that are connected and have said which partition they hold, ascending."""
        connected = set(self.grid.get_node_ids())
        self._learn(connected)
        return sorted(self._nodes(connected))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push through the wrapped grid; a message to a node that has gone since is not sent."""
        pairs = self._addressed(messages)
        pushed = set(self.grid.push_messages([copy for _, copy in pairs])) if pairs else set()
        return [self._stamp(*pair) for pair in pairs if pair[1].metadata.message_id in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Pull through the wrapped grid."""
        return [self._known(reply) for reply in self.grid.pull_messages(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid; the reply of a node that has gone is an error."""
        pairs = self._addressed(messages)
        copies = [copy for _, copy in pairs]
        replies = list(self.grid.send_and_receive(copies, timeout=timeout)) if copies else []
        sent = [self._stamp(*pair) for pair in pairs]
        known = [self._known(reply) for reply in replies]
        for message_id in sent:  # nobody waits for the others any longer
            self._sent.pop(message_id, None)
        return known

    def take_refused(self) -> list[tuple[int, str]]:
        """Nodes whose replies claimed another's partition, and why, since this was last asked."""
        refused, self._refused = [*self._refused, *super().take_refused()], []
        return refused

    def _addressed(self, messages: Iterable[Message]) -> list[tuple[Message, Message]]:
        """The messages that can be sent, each with its copy to the SuperLink's id of its node."""
        nodes = self._nodes(set(self.grid.get_node_ids()))
        held = [message for message in messages if message.metadata.dst_node_id in nodes]
        return [(message, _to(message, nodes[message.metadata.dst_node_id])) for message in held]

    def _stamp(self, message: Message, copy: Message) -> str:
        """The id under which the copy was sent, now the message's, too."""
        message_id: str = copy.metadata.message_id
        set_message_id(message, message_id)
        self._sent[message_id] = message.metadata.dst_node_id
        return message_id

    def _nodes(self, connected: set[int]) -> dict[int, int]:
        """The SuperLink's id of each node that is there, by ours."""
        known = {node: partition for node, partition in self._partitions.items() if node in connected}
        return {FIRST_NODE_ID + partition: node for node, partition in known.items()}

    def _learn(self, connected: set[int]) -> None:
        """Read what nodes have said since, and ask those that are new."""
        if self._asked:
            for reply in self.grid.pull_messages(list(self._asked)):
                self._note(self._asked.pop(reply.metadata.reply_to_message_id, None), reply)
        self._asked = {key: node for key, node in self._asked.items() if node in connected}
        waiting = set(self._asked.values())
        now_s = self._now_s()
        resting = {node for node, (until_s, _) in self._rests.items() if until_s > now_s}
        new = sorted(connected - self._partitions.keys() - waiting - resting)
        questions = [
            Message(RecordDict(), dst_node_id=node, message_type=INTRODUCTION, ttl=_ANSWER_S) for node in new
        ]
        pushed = set(self.grid.push_messages(questions)) if questions else set()
        for question in questions:
            if question.metadata.message_id in pushed:
                self._asked[question.metadata.message_id] = question.metadata.dst_node_id

    def _note(self, node: int | None, reply: Message) -> None:
        """Learn from a node's answer which partition it holds."""
        if node is None:
            return
        numbers = _introduction(reply)
        if numbers is None:
            reason = reply.error.reason if reply.has_error() else "it does not say which partition it holds"
            _log.warning("node %d is left out for now: %s", node, " ".join(str(reason).split()))
            rest_s = min(2 * self._rests.get(node, (0.0, _AGAIN_S / 2))[1], _AGAIN_MOST_S)
            self._rests[node] = self._now_s() + rest_s, rest_s
            return
        partition, self.clients = numbers
        for other in [other for other, its in self._partitions.items() if its == partition]:
            del self._partitions[other]
        self._partitions[node] = partition

    def _known(self, reply: Message) -> Message:
        """The reply as of the node that we know; an error where it claims another's partition."""
        node = self._sent.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            return reply
        metadata = metadata_of(reply) | {"_src_node_id": node}
        if reply.has_error():
            return message_from(metadata, None, reply.error)
        told = message_from(metadata, reply.content)
        claimed = _claimed(reply)
        if claimed is None or FIRST_NODE_ID + claimed == node:
            return told
        reason = f"the reply of partition {node - FIRST_NODE_ID} claims to be of partition {claimed:g}"
        self._refused.append((node, reason))
        return with_error(told, REPLY_UNAVAILABLE, reason)


def _to(message: Message, node: int) -> Message:
    """A message of the same content to a node of the SuperLink."""
    of = message.metadata
    return Message(message.content, node, of.message_type, ttl=of.ttl, group_id=of.group_id)


def _introduction(reply: Message) -> tuple[int, int] | None:
    """The partition that a node says it holds, and of how many."""
    if reply.has_error():
        return None
    for record in reply.content.metric_records.values():
        partition, partitions = record.get(PARTITION), record.get(PARTITIONS)
        if isinstance(partition, int) and isinstance(partitions, int) and 0 <= partition < partitions:
            return partition, partitions
    return None


def _claimed(reply: Message) -> float | None:
    """The partition that a reply says it is of, None where it says nothing."""
    for record in reply.content.values():
        claimed = record.get(PARTITION) if isinstance(record, MetricRecord) else None
        if isinstance(claimed, int | float):
            return claimed
    return None
