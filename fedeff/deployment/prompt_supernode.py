"""The command of a SuperNode with prompt clients, in place of `flower-supernode`.

python -m fedeff.deployment.prompt_supernode [--preload MODULES] [--idle-s S] ARGUMENTS OF FLOWER-SUPERNODE...
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from fedeff.core.errors import FedeffError
from fedeff.core.flower_deployment import run_supernode
from fedeff.deployment.prompt_clients import IDLE, PRELOAD, IdleWait, client_forks
from fedeff.grids.prompt import Pace

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a SuperNode; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument(
        "--preload", default=",".join(PRELOAD), help="modules that every client imports, by commas"
    )
    parser.add_argument("--idle-s", type=float, default=IDLE.shortest_s, help="the shortest wait, seconds")
    own, others = parser.parse_known_args(arguments)
    preload = [name for name in own.preload.split(",") if name]
    try:
        wait = IdleWait(Pace(own.idle_s, max(own.idle_s, IDLE.longest_s), IDLE.share))
        run_supernode(others, functools.partial(client_forks, preload), wait)
    except FedeffError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
