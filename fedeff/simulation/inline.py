"""The reference engine: every block runs here, one after the other, as the server waits."""

from collections import deque

from flwr.clientapp import ClientApp

from fedeff.simulation.block import Block, BlockResult, Shared, Site, run_block

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs clients in the server's own process: slow, simple, and easy to step through.

    Clients share nothing with the server or each other but the modules they import; one that ends
    the process ends the run.
    """

    window = 1

    def __init__(self, app: ClientApp, site: Site) -> None:
        self._app = app
        self._site = site
        self._waiting: deque[tuple[Block, Shared]] = deque()

    def share(self, shared: Shared) -> Shared:
        """What messages share, as it is."""
        return shared

    def submit(self, block: Block, handle: Shared) -> None:
        """Queue a block for `collect`."""
        self._waiting.append((block, handle))

    def collect(self, timeout_s: float | None) -> list[BlockResult]:
        """Run one block; a timeout cannot interrupt it."""
        if not self._waiting:
            return []
        block, shared = self._waiting.popleft()
        return [run_block(self._app, block, shared, self._site)]

    def close(self) -> None:
        """Forget blocks that were not run."""
        self._waiting.clear()
