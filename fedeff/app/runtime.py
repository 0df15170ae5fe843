"""Where a run happens: how many simulated clients, on which engine, how slow and how far away."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedeff.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from fedeff.core.delays import VirtualClock

__all__ = ["Runtime"]

_ENGINES = ("ray", "inline")
_LINK = ("seconds_per_step", "latency_s", "bandwidth_bytes_per_s")  # as `VirtualClock` names them


@dataclass(frozen=True)
class Runtime:
    """What is no setting of the app: the same app gives the same model on any engine and any actors.

    `delays` and the link's numbers set a virtual clock; without them there is none and the record
    holds wall time only. `delays` is as `fedeff.core.delays.parse_delays` reads it.
    """

    clients: int = 1000
    engine: Literal["ray", "inline"] = "ray"
    actors: int | None = None  # worker processes; None: as many as there are processors
    block_size: int | None = None  # clients that travel together; None: the engine's choice
    num_gpus: float = 0.0  # a worker
    ray_address: str | None = None  # an existing Ray cluster
    delays: str = ""
    seconds_per_step: float | None = None
    latency_s: float | None = None  # one way
    bandwidth_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise unknown_name("engine", self.engine, _ENGINES)
        _check("clients", self.clients, self.clients >= 1, "at least 1")
        for name in ("actors", "block_size"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "at least 1")
        _check("num_gpus", self.num_gpus, 0 <= self.num_gpus < math.inf, "0 or more")
        for name in ("seconds_per_step", "latency_s"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 <= value < math.inf, "0 or more")
        bandwidth = self.bandwidth_bytes_per_s
        _check("bandwidth_bytes_per_s", bandwidth, bandwidth is None or bandwidth > 0, "above 0")

    def clock(self, seed: int) -> "VirtualClock | None":
        """The virtual clock that the delays and the link ask for, or None where nothing does.

        Raises:
            ConfigError: for delays that cannot be understood.
            TraceError: for a trace that cannot be read.
        """
        from fedeff.core.delays import VirtualClock, parse_delays

        given = {name: value for name in _LINK if (value := getattr(self, name)) is not None}
        if not self.delays and not given:
            return None
        return replace(VirtualClock(parse_delays(self.delays or "none", seed)), **given)

    def engine_options(self) -> dict[str, Any]:
        """The keyword arguments of `fedeff.simulation.run_simulation` that say how to run."""
        return {
            "engine": self.engine,
            "num_actors": self.actors,
            "block_size": self.block_size,
            "num_gpus": self.num_gpus or None,
            "ray_address": self.ray_address,
        }

    def table(self) -> dict[str, Any]:
        """The values that are set, by kebab-case key, for `config.toml`."""
        return {
            name.replace("_", "-"): value
            for name, value in asdict(self).items()
            if value is not None and value != ""
        }

    @classmethod
    def from_table(cls, table: Mapping[str, Any], source: Path) -> "Runtime":
        """The runtime that `table` was made from; `source` is named in errors.

        Raises:
            ConfigError: for a key that is none of these.
        """
        known = {one.name.replace("_", "-"): one.name for one in fields(cls)}
        for key in table:
            if key not in known:
                raise unknown_name(f"key of [simulation] in {source}", key, known)
        return cls(**{known[key]: value for key, value in table.items()})


def _check(name: str, value: object, possible: bool, expected: str) -> None:
    if not possible:
        key = name.replace("_", "-")
        raise ConfigError(f"{key} = {value}; expected {expected}")
