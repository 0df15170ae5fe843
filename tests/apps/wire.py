"""Counts what passes between a server and its clients with NumPy alone, and loses some of it on the way.

`Wire` goes beneath whatever counts for fedeff, `Counted` around the clients. In the one round that has
faults each befalls another client, in the order of its messages: "request" and "reply" (lost on the way),
"raise", and "forget" (what the client keeps is gone, if it keeps anything).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedeff.clients import BlockClientApp
from fedeff.core.flower import set_message_id
from fedeff.core.state import StateStore
from fedeff.grids import Cohort, Folded, PassingGrid


def npy_bytes(content: RecordDict) -> int:
    """The length of the `.npy` files that NumPy itself writes of the content's arrays."""
    total = 0
    for record in content.values():
        for array in record.values() if isinstance(record, ArrayRecord) else ():
            file = BytesIO()
            np.save(file, array.numpy())
            total += file.tell()
    return total


class Counted(ClientApp):
    """Clients of fedeff, one by one or in blocks, with the bytes that they get and give counted."""

    def __init__(self, clients: BlockClientApp) -> None:
        super().__init__()
        self.clients = clients
        self.block_size = clients.block_size
        self.failing: set[tuple[int, int]] = set()  # nodes that raise, and in which server round
        self.failed = 0
        self.down = self.up = 0
        self.gave: dict[int, int] = {}  # bytes of each node's last reply

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._counted(message, self.clients(message, context))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run_block(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Message | Exception]:
        answers = self.clients.run_block(messages, contexts)
        return [self._counted(*pair) for pair in zip(messages, answers, strict=True)]

    def _counted(self, message: Message, answer: Message | Exception) -> Message | Exception:
        self.down += npy_bytes(message.content)
        if _asked(message) in self.failing:
            self.failing.remove(_asked(message))
            self.failed += 1
            return RuntimeError("the client's own mistake")
        if isinstance(answer, Message):
            self.gave[message.metadata.dst_node_id] = given = npy_bytes(answer.content)
            self.up += given
        return answer


class Wire(PassingGrid):
    """Another Grid; what is sent and what is received is counted by round, and lost as the faults tell."""

    def __init__(
        self, grid: Grid, clients: Counted, states: StateStore, faults: Sequence[str] = (), at: int = 0
    ) -> None:
        super().__init__(grid)
        self.clients, self.states, self.faults, self.at = clients, states, faults, at
        self.places = {node: place for place, node in enumerate(sorted(grid.get_node_ids()))}
        self.fired: Counter[str] = Counter()
        self.down = self.up = 0
        self.lost_down = 0  # of all rounds, in requests that never came
        self.unanswered = 0  # messages
        self.rounds: list[tuple[int, int]] = []
        self._losing: list[Message] = []  # requests whose replies are going to be lost

    def close_round(self) -> None:
        """What comes from now on is of the next round."""
        self.rounds.append((self.down, self.up))
        self.down = self.up = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        arriving = self._sent(messages)
        held = replace(messages, messages=arriving) if isinstance(messages, Cohort) else arriving
        replies = self.grid.send_and_receive(held, timeout=timeout)
        arrived = (reply for reply in replies if self._arrives(reply))
        return list(arrived) if isinstance(replies, list) else arrived

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        held = list(messages)
        self.grid.push_messages(self._sent(held))
        return [message.metadata.message_id for message in held]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for reply in self.grid.pull_messages(message_ids) if self._arrives(reply)]

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        """Those of the messages that arrive."""
        arriving = []
        for place, message in enumerate(messages):
            size = npy_bytes(message.content)
            self.down += size
            self.unanswered += 1
            fault = self.faults[place] if place < len(self.faults) and self._goes_wrong(message) else ""
            if fault == "request":
                self.lost_down += size
                set_message_id(message, f"lost-{place}")
            else:
                arriving.append(message)
            self._befall(message, fault)
        return arriving

    def _goes_wrong(self, message: Message) -> bool:
        config = message.content["config"]
        training = message.metadata.message_type == "train" and config.get("procedure") != "curvature"
        return training and config["server-round"] == self.at

    def _befall(self, message: Message, fault: str) -> None:
        if fault == "request":
            self.fired[fault] += 1
        elif fault == "reply":
            self._losing.append(message)
        elif fault == "raise":
            self.clients.failing.add(_asked(message))
        elif fault == "forget":
            partition = self.places[message.metadata.dst_node_id]
            self.fired[fault] += self.states.get(partition) is not None
            self.states.put(partition, None)

    def _arrives(self, reply: Message | Folded) -> bool:
        """Count a reply, unless it is lost."""
        if isinstance(reply, Folded):
            self.up += sum(self.clients.gave[receipt.node_id] for receipt in reply.receipts)
            self.unanswered -= len(reply.receipts)
            return True
        if reply.metadata.reply_to_message_id in {one.metadata.message_id for one in self._losing}:
            self.fired["reply"] += 1
            return False
        self.up += npy_bytes(reply.content) if reply.has_content() else 0
        self.unanswered -= 1
        return True


def _asked(message: Message) -> tuple[int, int]:
    """Who is asked, and in which round."""
    return message.metadata.dst_node_id, int(message.content["config"]["server-round"])
