"""How long one round takes, worked out from bytes, links and processors before anything runs.

The performance model of Wen (dissertation, Duke 2019, appendix B) in two forms: `Tree` as it stands
there, for the workers of one silo, and `Star` for federated rounds, where every client has a link of
its own to one server. Bytes are those on the wire; seconds are wall or virtual alike.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["Load", "RoundTime", "Star", "Tree"]

_SCALINGS = ("strong", "weak")


@dataclass(frozen=True)
class Load:
    """One message: what it puts on a link, and what coding it takes."""

    size_bytes: float
    encode_s: float = 0.0
    decode_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("size_bytes", "encode_s", "decode_s"):
            _check("message", name, getattr(self, name), least=0.0)

    @property
    def coding_s(self) -> float:
        """Seconds to encode it and decode it once."""
        return self.encode_s + self.decode_s


@dataclass(frozen=True)
class RoundTime:
    """Where the seconds of one round go; nothing overlaps."""

    compute_s: float  # local training
    transfer_s: float  # bytes on links
    latency_s: float
    coding_s: float = 0.0  # encoding and decoding

    @property
    def total_s(self) -> float:
        """Seconds of the whole round."""
        return self.compute_s + self.transfer_s + self.latency_s + self.coding_s


@dataclass(frozen=True)
class Star:
    """A federated round: the model down to every client, local training, an answer up from each.

    `|down| / C_down + |up| / C_up + 2 latency + T_comp` is the round of one client, as the virtual clock
    counts it (`VirtualClock.round_trip_s`, with one bandwidth for both directions). The server's own
    link, each way, is shared by all clients of the round, so that a transfer takes the longer of
    `size / C_client` and `clients * size / C_server`. Clients code at the same time, the server decodes
    their answers one after the other. For clients that differ give the slowest: the round waits for it.
    """

    clients: int
    down_bytes_per_s: float = math.inf
    up_bytes_per_s: float = math.inf
    latency_s: float = 0.0  # one way
    server_bytes_per_s: float = math.inf  # each way

    def __post_init__(self) -> None:
        _check("star", "clients", self.clients, least=1)
        _check("star", "latency_s", self.latency_s, least=0.0)
        for name in ("down_bytes_per_s", "up_bytes_per_s", "server_bytes_per_s"):
            _check_rate("star", name, getattr(self, name))

    def round_time(self, compute_s: float, down: Load, up: Load) -> RoundTime:
        """One round in which each client trains `compute_s` seconds."""
        _check("star", "compute_s", compute_s, least=0.0)
        down_s = down.size_bytes * self._s_per_byte(self.down_bytes_per_s)
        up_s = up.size_bytes * self._s_per_byte(self.up_bytes_per_s)
        coding_s = down.coding_s + up.encode_s + self.clients * up.decode_s
        return RoundTime(compute_s, down_s + up_s, 2 * self.latency_s, coding_s)

    def _s_per_byte(self, client_bytes_per_s: float) -> float:
        return max(1 / client_bytes_per_s, self.clients / self.server_bytes_per_s)


@dataclass(frozen=True)
class Tree:
    """A step of synchronous training inside a silo: `j` machines of `i` workers, reduced as a tree.

    Equation B.1, with `|g|` the bytes of a gradient and `N = i j`:
    `T_comp / N + |g| / C_gwd * log2 i + |g| / C_cwd + (C_ncost + |g| / C_nwd) * log2 j` where the work is
    divided among the workers (`"strong"` scaling); each does all of it under `"weak"` (B.3). Here
    `T_comp` leaves out the transfer within a machine, which the dissertation's profiled time holds and
    subtracts again. Coding, which it takes for free, is paid once at each of the `log2 N` levels.
    """

    machines: int
    workers_per_machine: int = 1
    network_bytes_per_s: float = math.inf  # C_nwd, between machines
    latency_s: float = 0.0  # C_ncost, of one message between machines
    worker_bytes_per_s: float = math.inf  # C_gwd, between the workers of a machine
    host_bytes_per_s: float = math.inf  # C_cwd, between a worker and its machine
    scaling: Literal["strong", "weak"] = "strong"

    def __post_init__(self) -> None:
        for name in ("machines", "workers_per_machine"):
            _check("tree", name, getattr(self, name), least=1)
        _check("tree", "latency_s", self.latency_s, least=0.0)
        for name in ("network_bytes_per_s", "worker_bytes_per_s", "host_bytes_per_s"):
            _check_rate("tree", name, getattr(self, name))
        if self.scaling not in _SCALINGS:
            raise unknown_name("scaling", self.scaling, _SCALINGS)

    def round_time(self, compute_s: float, gradient: Load) -> RoundTime:
        """One step whose batch takes one worker `compute_s` seconds."""
        _check("tree", "compute_s", compute_s, least=0.0)
        within, across = math.log2(self.workers_per_machine), math.log2(self.machines)
        s_per_byte = (
            within / self.worker_bytes_per_s + 1 / self.host_bytes_per_s + across / self.network_bytes_per_s
        )
        workers = self.machines * self.workers_per_machine
        return RoundTime(
            compute_s / workers if self.scaling == "strong" else compute_s,
            gradient.size_bytes * s_per_byte,
            self.latency_s * across,
            gradient.coding_s * (within + across),
        )


def _check(where: str, name: str, value: float, *, least: float) -> None:
    if not least <= value < math.inf:
        raise ConfigError(f"{where}: {name} is {value}, expected a finite number of {least:g} or more")


def _check_rate(where: str, name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{where}: {name} is {value}, expected a positive number or inf")
