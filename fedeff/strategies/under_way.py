"""Messages under way: which of them a reply answers, whatever round it arrives in."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import Message

__all__ = ["Sent", "UnderWay"]

T = TypeVar("T")


@dataclass(frozen=True)
class Sent(Generic[T]):
    """A message that is under way, without its content: its node, and what the strategy notes of it."""

    node_id: int
    note: T


class UnderWay(Generic[T]):
    """The messages that were sent and neither answered nor given up.

    A Grid gives a message its id when it sends it, after the strategy has made it, and an error reply
    of a SuperLink names no node: so messages are noted as they are made and known by their ids later.

    What is given up may still keep its node busy: it counts as unanswered until the node answers it or
    a later message. Nodes are taken to answer in order, so what they have passed over was lost.
    """

    def __init__(self) -> None:
        self._made: list[tuple[Message, Sent[T]]] = []  # may not have an id yet
        self._sent: dict[str, Sent[T]] = {}  # by message id
        self._owed: dict[int, list[str]] = {}  # ids that were given up, by node, oldest first
        self._owing: dict[str, int] = {}  # the same the other way round

    def __len__(self) -> int:
        return len(self._made) + len(self._sent)

    def __iter__(self) -> Iterator[Sent[T]]:
        yield from self._sent.values()
        yield from (sent for _, sent in self._made)

    def add(self, message: Message, note: T) -> None:
        """Note a message that is about to be sent."""
        self._made.append((message, Sent(message.metadata.dst_node_id, note)))

    def ids(self, wanted: Callable[[T], bool]) -> set[str]:
        """The ids of those whose note is wanted; a message that could not be sent has none."""
        return {key for key, sent in self._by_id().items() if wanted(sent.note)}

    def unanswered(self) -> Counter[int]:
        """By node, how many messages it may still have to answer: under way, or given up."""
        return Counter([sent.node_id for sent in self] + list(self._owing.values()))

    def take(self, reply: Message) -> Sent[T] | None:
        """What the reply answers, no longer under way from now on; None if it is not under way."""
        key = reply.metadata.reply_to_message_id
        sent = self._by_id().pop(key, None)
        node = self._owing.get(key) if sent is None else sent.node_id
        if node is not None:
            self._forgive(node, key)
        return sent

    def give_up(self, wanted: Callable[[T], bool]) -> tuple[Sent[T], ...]:
        """Forget those whose note is wanted: a reply to one of them answers nothing any more."""
        lost = tuple(sent for sent in self if wanted(sent.note))
        for key, sent in self._by_id().items():
            if wanted(sent.note):
                self._owed.setdefault(sent.node_id, []).append(key)
                self._owing[key] = sent.node_id
        self._sent = {key: sent for key, sent in self._by_id().items() if not wanted(sent.note)}
        self._made = [(message, sent) for message, sent in self._made if not wanted(sent.note)]
        return lost

    def _forgive(self, node_id: int, answered: str) -> None:
        """Forget what a node was given up for up to the message that it answered."""
        owed = self._owed.pop(node_id, [])
        until = owed.index(answered) + 1 if answered in owed else len(owed)
        for key in owed[:until]:
            del self._owing[key]
        if owed[until:]:
            self._owed[node_id] = owed[until:]

    def _by_id(self) -> dict[str, Sent[T]]:
        unsent = []
        for message, sent in self._made:
            if key := message.metadata.message_id:
                self._sent[key] = sent
            else:
                unsent.append((message, sent))
        self._made = unsent
        return self._sent
