"""Strategies by name: what the command line and a run configuration may ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.strategies.fedavg import FedAvg
from fedeff.strategies.layerwise import LayerwiseAvg

__all__ = ["Setting", "StrategySpec", "build", "strategy_names", "strategy_spec"]

Value = bool | int | float | str


@dataclass(frozen=True)
class Setting:
    """One run-config key of a strategy: its default says its type."""

    key: str
    default: Value
    meaning: str

    def read(self, value: object) -> Value:
        """The value in the setting's type, whole numbers taken for floats.

        Raises:
            ConfigError: if it is of another type.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ConfigError(f"{self.key} = {value!r} is not of type {kind.__name__}; {self.meaning}")
        read: Any = value
        return read  # type: ignore[no-any-return]


@dataclass(frozen=True)
class StrategySpec:
    """A strategy that can be named: what it is, what it can be told, how it is made."""

    name: str
    summary: str
    settings: tuple[Setting, ...]
    make: Callable[[Mapping[str, Any]], FedAvg]


def strategy_names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(_TABLE)


def strategy_spec(name: str) -> StrategySpec:
    """What a strategy is and what it can be told.

    Raises:
        ConfigError: for an unknown name; lists the nearest ones.
    """
    if name not in _TABLE:
        raise unknown_name("strategy", name, _TABLE)
    return _TABLE[name]


def build(name: str, settings: Mapping[str, object] | None = None) -> FedAvg:
    """The strategy of this name; settings left out keep their defaults.

    Raises:
        ConfigError: for an unknown name or setting, a wrong type or an impossible value.

    >>> build("fedavg", {"cohort": 10, "fold": "workers"}).cohort
    10
    """
    spec = strategy_spec(name)
    known = {setting.key: setting for setting in spec.settings}
    given = dict(settings or {})
    for key in given:
        if key not in known:
            raise unknown_name(f"setting of strategy {name!r}", key, known)
    return spec.make({key: one.read(given.get(key, one.default)) for key, one in known.items()})


_SHARED = (
    Setting("cohort", 100, "clients that train in a round, at least 1"),
    Setting("evaluate-clients", 0, "clients that evaluate the model on their own data, 0 for none"),
    Setting("fold", "server", "where replies are summed: server or workers"),
    Setting("seed", 0, "seed of the cohorts"),
    Setting("min-available-nodes", 1, "connected clients to wait for before a cohort is drawn"),
    Setting("wait-for-nodes-s", 10.0, "seconds to wait for them"),
)


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {setting.key.replace("-", "_"): settings[setting.key] for setting in _SHARED}


def _fedprox(settings: Mapping[str, Any]) -> FedAvg:
    mu = settings["prox-mu"]
    if not mu > 0:
        raise ConfigError(f"prox-mu = {mu}: fedprox needs a positive pull, such as 0.1; for none take fedavg")
    return FedAvg(**_shared(settings), train_config={"prox-mu": mu})


def _layerwise(settings: Mapping[str, Any]) -> LayerwiseAvg:
    return LayerwiseAvg(
        **_shared(settings),
        layer_interval=settings["layer-interval"],
        large_share=settings["large-share"],
    )


_TABLE = {
    spec.name: spec
    for spec in (
        StrategySpec(
            "fedavg",
            "weighted mean of the clients' models (McMahan et al., arXiv:1602.05629)",
            _SHARED,
            lambda settings: FedAvg(**_shared(settings)),
        ),
        StrategySpec(
            "fedprox",
            "fedavg with clients pulled towards the global model (Li et al., arXiv:1812.06127)",
            (*_SHARED, Setting("prox-mu", 0.1, "strength of the pull, above 0")),
            _fedprox,
        ),
        StrategySpec(
            "layerwise",
            "fedavg in which large layers go up less often",
            (
                *_SHARED,
                Setting("layer-interval", 2, "rounds between uploads of the large layers"),
                Setting("large-share", 0.5, "share of the model's bytes in large layers, in (0, 1]"),
            ),
            _layerwise,
        ),
    )
}
