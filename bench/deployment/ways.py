"""How a deployment may be run: what the rows compare."""

from pathlib import Path

from bench.deployment.loopback import Way
from fedeff.deployment import Site, environment

__all__ = ["AFTER", "BEFORE", "GRID", "SHIM", "WAYS"]

# What `fedeff deploy up` has a SuperExec do.
_DEPLOYED_POLL_S = float(environment(Site(Path("site")))["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"])

BEFORE = Way("Flower's grid", flowers_own=True, poll_s=None)
GRID = Way("PromptGrid", flowers_own=False, poll_s=None)
AFTER = Way("PromptGrid, as `fedeff deploy up` has it", False, _DEPLOYED_POLL_S, quick_command=True)
SHIM = Way("the same with prompt clients", False, _DEPLOYED_POLL_S, prompt_clients=True)
WAYS = (BEFORE, GRID, AFTER, SHIM)
