"""The built-in app's settings: one frozen value parsed from Flower's run config.

Keys are Flower's kebab-case (`learning-rate`), set in `[tool.flwr.app.config]` and overridden with
`-c key=value`. An unknown key, a wrong type or an impossible value is a `ConfigError` of one line.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, TypeVar

from fedeff.app.allowed import Allowed, above, anything, at_least, below, between, one_of, switch
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["SettingDoc", "Settings", "documented"]

Value = bool | int | float | str
T = TypeVar("T", bool, int, float, str)

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _setting(default: T, meaning: str, allowed: Allowed) -> T:
    """A dataclass field that carries its documentation and its test."""
    made: T = field(default=default, metadata={"meaning": meaning, "allowed": allowed})
    return made


@dataclass(frozen=True)
class Settings:
    """What the built-in app does, apart from where and on how many clients it runs.

    >>> Settings.from_run_config({"cohort": 10, "learning-rate": 0.1}).cohort
    10
    """

    strategy: str = _setting(
        "fedavg", "how clients' models become one", one_of("fedavg", "fedprox", "layerwise")
    )
    model: str = _setting("cnn", "the network", one_of("cnn", "mlp", "resnet20", "gru", "lstm", "logistic"))
    dataset: str = _setting(
        "auto",
        "the data; auto takes fashion-mnist where it is found, else shakespeare",
        one_of("auto", "fashion-mnist", "shakespeare", "digits"),
    )
    data_folder: str = _setting("", "where the data files are", anything("a folder, or empty to search"))
    partition: str = _setting(
        "dirichlet:0.3",
        "how training rows go to clients",
        anything("iid, dirichlet:ALPHA, shards:CLASSES, quantity:SKEW, natural"),
    )
    cohort: int = _setting(100, "clients that train in a round", at_least(1))
    num_server_rounds: int = _setting(30, "rounds", at_least(1))
    local_epochs: int = _setting(1, "passes over a client's data in a round", at_least(1))
    local_steps: int = _setting(0, "batches a client trains in a round, 0 for whole epochs", at_least(0))
    batch_size: int = _setting(10, "training rows in a batch", at_least(1))
    optimizer: str = _setting("sgd", "the clients' optimizer", one_of("sgd", "momentum", "adam"))
    learning_rate: float = _setting(0.05, "the clients' step size", above(0))
    momentum: float = _setting(0.0, "of optimizer=momentum", below(0, 1))
    weight_decay: float = _setting(0.0, "pull of the weights towards zero", at_least(0))
    prox_mu: float = _setting(0.0, "pull towards the global model (FedProx), 0 for none", at_least(0))
    autocast: bool = _setting(False, "train in bfloat16 where it pays", switch())
    vectorise: str = _setting("auto", "train a block of clients at once", one_of("auto", "always", "never"))
    fold: str = _setting("server", "where replies are summed", one_of("server", "workers"))
    device: str = _setting("cpu", "where clients train", anything("cpu, cuda, cuda:0, ..."))
    seed: int = _setting(0, "of every random draw", at_least(0))
    evaluate_every: int = _setting(1, "rounds between evaluations of the global model", at_least(1))
    evaluate_clients: int = _setting(0, "clients that evaluate it on their own data, 0 for none", at_least(0))
    target_accuracy: float = _setting(
        0.0, "stop when the global model reaches it, 0 for never", between(0, 1)
    )
    layer_interval: int = _setting(2, "layerwise: rounds between uploads of large layers", at_least(1))

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))
        from fedeff.data import parse_scheme  # here, since help and errors need no NumPy

        parse_scheme(self.partition)

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Value]) -> "Settings":
        """The settings that a Flower run config asks for; keys left out keep their defaults.

        Raises:
            ConfigError: for an unknown key, a wrong type, or a value out of range.
        """
        names = {_key(one): one.name for one in fields(cls)}
        for key in run_config:
            if key not in names:
                raise unknown_name("setting", key, names)
        return cls(**{names[key]: value for key, value in run_config.items()})  # type: ignore[arg-type]

    def run_config(self) -> dict[str, Value]:
        """Every setting by its kebab-case key, as Flower's run config holds it."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    def changed(self) -> dict[str, Value]:
        """The settings that differ from the defaults, by kebab-case key."""
        plain = Settings().run_config()
        return {key: value for key, value in self.run_config().items() if value != plain[key]}

    def check_clients(self, clients: int) -> None:
        """Raise `ConfigError` unless rounds of this size can be drawn from so many clients."""
        for key, wanted in (("cohort", self.cohort), ("evaluate-clients", self.evaluate_clients)):
            if wanted > clients:
                raise ConfigError(
                    f"{key} = {wanted}, but there are {clients} clients; "
                    f"set -c {key}={clients} or less, or give more clients"
                )


@dataclass(frozen=True)
class SettingDoc:
    """One row of the settings table."""

    key: str
    default: Value
    meaning: str
    allowed: str


def documented() -> tuple[SettingDoc, ...]:
    """Every setting with its default, meaning and allowed values, in the order of `Settings`."""
    return tuple(
        SettingDoc(_key(one), _default(one), one.metadata["meaning"], one.metadata["allowed"].text)
        for one in fields(Settings)
    )


def _key(one: Field[Any]) -> str:
    return one.name.replace("_", "-")


def _default(one: Field[Any]) -> Value:
    default: Any = one.default
    given: Value = default
    return given


def _checked(one: Field[Any], value: object) -> Value:
    """`value` in the field's type, whole numbers taken for floats; `ConfigError` if it will not do."""
    kind, allowed = type(_default(one)), one.metadata["allowed"]
    seen = float(value) if kind is float and type(value) is int else value
    if type(seen) is not kind or (isinstance(seen, float) and not math.isfinite(seen)):
        raise ConfigError(f"{_key(one)} = {value!r} is not {_TYPE_NAMES[kind]}; allowed: {allowed.text}")
    if not allowed.holds(seen):
        if allowed.names:
            raise unknown_name(_key(one), str(seen), allowed.names)
        raise ConfigError(f"{_key(one)} = {value!r} is not possible; allowed: {allowed.text}")
    return seen
