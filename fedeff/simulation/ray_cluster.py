"""Starting or joining a Ray cluster, and how many actors fit where."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray

from fedeff.core.errors import EngineError

__all__ = ["Placement", "cluster", "placements"]


@dataclass(frozen=True)
class Placement:
    """Where one actor goes and what it holds there."""

    node_id: str
    num_cpus: float
    num_gpus: float


@contextmanager
def cluster(address: str | None, init_args: Mapping[str, Any]) -> Iterator[None]:
    """A Ray cluster for the length of a run: the one at `address`, the one already joined, or a new one.

    Only a cluster that was started or joined here is left again.
    """
    if ray.is_initialized():
        yield
        return
    # Ray otherwise hides every GPU from actors that ask for none, and warns that it will stop.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or init_args.get("address")
    if address is None:
        # "local": left to itself, Ray joins whatever cluster it finds on the machine.
        settings |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _object_store_bytes(),
        }
    else:
        settings |= {"address": address}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**(settings | dict(init_args)))
    except Exception as error:  # the bare class where Ray's own processes start too slowly
        where = f"join the Ray cluster at {address!r}" if address else "start Ray"
        reason = " ".join(str(error).split())
        raise EngineError(
            f"cannot {where}: {reason[:300]}; check the address and `ray status`, or use engine='inline'"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def placements(num_actors: int | None, num_cpus: float, num_gpus: float) -> list[Placement]:
    """As many actors as fit, or `num_actors`, spread over the cluster's nodes in turn.

    Raises `EngineError` when no node has `num_cpus` CPUs and `num_gpus` GPUs free for one actor.
    """
    room: dict[str, int] = {}
    for node in cast(Any, ray.nodes)():
        resources = node["Resources"] if node["Alive"] else {}
        fits = [int(resources.get("CPU", 0) / num_cpus)] if num_cpus else []
        fits += [int(resources.get("GPU", 0) / num_gpus)] if num_gpus else []
        if resources and fits and min(fits) > 0:
            room[node["NodeID"]] = min(fits)
    if not room:
        raise EngineError(
            f"no node of the Ray cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs for a client; "
            "lower num_gpus or client_resources"
        )
    wanted = num_actors or sum(room.values())
    if wanted > sum(room.values()):
        # More actors than CPUs may share them: the user asked for it.
        share = num_cpus * sum(room.values()) / wanted
        turns = [node for node in room for _ in range(-(-wanted // len(room)))][:wanted]
        return [Placement(node, share if num_cpus else 0.0, num_gpus) for node in turns]
    return [Placement(node, num_cpus, num_gpus) for node in _in_turn(room)][:wanted]


def _in_turn(room: dict[str, int]) -> Iterator[str]:
    left = dict(room)
    while any(left.values()):
        for node in left:
            if left[node]:
                left[node] -= 1
                yield node


def _object_store_bytes() -> int:
    """Room for what is under way: a third of the shared memory there is, at most 4 GiB."""
    shared = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    free = shared.f_bavail * shared.f_frsize if shared else 2 * 2**30
    return max(100 * 2**20, min(4 * 2**30, int(free * 0.6)))
