"""A Grid that passes every call on: what wrappers of a Grid have in common."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

__all__ = ["PassingGrid"]


class PassingGrid(Grid):
    """Every method of `grid`, those that Flower's `Grid` does not name included; wrappers override some."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "grid" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["grid"], name)

    def set_run(self, run: Any) -> None:
        """Set the run of the wrapped grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the wrapped grid."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message made by the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the wrapped grid."""
        return self.grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """The nodes of the wrapped grid, with what it knows about them."""
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the wrapped grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the wrapped grid."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the wrapped grid."""
        return self.grid.send_and_receive(messages, timeout=timeout)

    def take_refused(self) -> list[tuple[int, str]]:
        """Nodes whose replies a Grid on the way did not let pass, and why, since this was last asked."""
        taken = getattr(self.grid, "take_refused", None)
        return [] if taken is None else taken()
