"""A SuperLink and its SuperNodes in this process: node ids are drawn anew each time, states are in memory."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedeff.core.flower import (
    CLIENT_RAISED,
    NODE_UNAVAILABLE,
    Blobs,
    error_reply,
    message_from,
    metadata_of,
    new_run,
    pack_content,
    set_message_id,
    set_task_identity,
    unpack_content,
)

ClientApp = Callable[[Message, Context], Message]


class LoopbackGrid(Grid):
    """Clients are one app, by partition; `kept` is where their nodes have folders and keys, if anywhere.

    `dead` are partitions whose nodes do not answer, `gone` those that are not even connected.
    """

    def __init__(
        self, app: ClientApp, clients: int, run_config: Mapping[str, object], kept: Path | None = None
    ) -> None:
        self.run_id = secrets.randbits(62)
        set_task_identity(self.run_id)
        self._app, self._clients, self._run_config = app, clients, dict(run_config)
        self._kept = kept
        self.dead: set[int] = set()
        self.gone: set[int] = set()
        self.asked: list[tuple[int, str]] = []
        self._contexts: dict[int, Context] = {}
        self._replies: dict[str, Message] = {}
        for partition in range(clients):
            self.restart(partition)

    def restart(self, partition: int) -> None:
        """Give a partition a node that has lost everything that it had in memory."""
        self._contexts = {
            node: context
            for node, context in self._contexts.items()
            if context.node_config["partition-id"] != partition
        }
        node = 1 + secrets.randbits(62)
        config: dict[str, object] = {"partition-id": partition, "num-partitions": self._clients}
        if self._kept:
            folder = self._kept / str(partition)
            config |= {"state-dir": str(folder / "state"), "state-key": str(folder / "state.key")}
        self._contexts[node] = Context(self.run_id, node, config, RecordDict(), self._run_config)

    def set_run(self, run: object) -> None:
        raise AssertionError("the grid's run is its own, nobody sets it")

    @property
    def run(self) -> object:
        return new_run(self.run_id)

    def create_message(self, *arguments: object, **options: object) -> Message:
        raise AssertionError("messages are made by `Message`, as Flower advises")

    def get_node_ids(self) -> list[int]:
        return [node for node, one in self._contexts.items() if self._partition(one) not in self.gone]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _push(self, message: Message) -> str:
        message_id = secrets.token_hex(16)
        set_message_id(message, message_id)
        context = self._contexts.get(message.metadata.dst_node_id)
        if context is None:
            self._replies[message_id] = error_reply(message, NODE_UNAVAILABLE, "the node is offline")
            return message_id
        partition = self._partition(context)
        self.asked.append((partition, message.metadata.message_type))
        if partition not in self.dead:
            try:
                self._replies[message_id] = self._app(_travelled(message), context)
            except Exception as error:
                self._replies[message_id] = error_reply(message, CLIENT_RAISED, str(error))
        return message_id

    @staticmethod
    def _partition(context: Context) -> int:
        return int(context.node_config["partition-id"])


def keys_for(kept: Path, clients: int) -> None:
    """Make the folder and the key of each client's state."""
    for partition in range(clients):
        folder = kept / str(partition)
        (folder / "state").mkdir(parents=True)
        key = folder / "state.key"
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))


def _travelled(message: Message) -> Message:
    """The message as another process gets it: nothing in it is shared."""
    blobs = Blobs()
    packed = pack_content(message.content, blobs)
    return message_from(metadata_of(message), unpack_content(packed, blobs.items))
