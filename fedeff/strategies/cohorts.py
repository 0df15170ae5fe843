"""Which clients take part in a round: a seeded draw of partitions, not of nodes."""

import time

from flwr.serverapp import Grid

from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator

__all__ = ["connected_nodes", "draw_cohort"]

_POLL_S = 0.1


def draw_cohort(nodes: list[int], size: int, *, seed: int, server_round: int, purpose: str) -> list[int]:
    """`size` of the nodes, ascending; a pure function of its arguments.

    `nodes` ascend with the partitions they hold, so the draw is one of partitions, whatever ids a
    runtime gave its nodes. `size` equal to their number takes all.
    """
    rng = generator(seed, purpose=purpose, round=server_round)
    chosen = rng.choice(len(nodes), size=size, replace=False, shuffle=False)
    return [nodes[index] for index in sorted(chosen.tolist())]


def connected_nodes(grid: Grid, needed: int, wait_s: float, *, enough: int | None = None) -> list[int]:
    """The grid's node ids, ascending, once at least `needed` are connected.

    After `wait_s` seconds `enough` will do, where it is given.

    Raises:
        ConfigError: if fewer are connected after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    while len(nodes := sorted(grid.get_node_ids())) < needed:
        if time.monotonic() >= deadline:
            if enough is not None and len(nodes) >= enough:
                return nodes
            raise ConfigError(
                f"{needed} clients are needed but {len(nodes)} are connected after {wait_s:g} s; "
                "ask for a smaller cohort or start more clients"
            )
        time.sleep(_POLL_S)
    return nodes
