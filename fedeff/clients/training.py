"""What a client does in one round, as a value; and what comes out of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from fedeff.clients.dp_sgd import DpSgd
from fedeff.clients.objective import Objective
from fedeff.clients.penalty import Penalty
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["LocalTraining", "Moments", "Trained", "batches"]

Array = np.ndarray[Any, np.dtype[Any]]
Optimizer = Literal["sgd", "momentum", "adam", "adamw", "slim-qn"]
_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "slim-qn")
Perturbation = Literal["none", "smooth-out", "ada-smooth-out"]
_PERTURBATIONS = ("none", "smooth-out", "ada-smooth-out")
_USUAL_RADII = {"smooth-out": 0.0375, "ada-smooth-out": 0.15}

# The keys by which a message may override a field; `proximal-mu` is what Flower's FedProx sends.
_KEYS = {
    "local-epochs": "epochs",
    "local-steps": "steps",
    "batch-size": "batch_size",
    "optimizer": "optimizer",
    "learning-rate": "learning_rate",
    "momentum": "momentum",
    "weight-decay": "weight_decay",
    "proximal-mu": "prox_mu",
    "prox-mu": "prox_mu",
    "autocast": "autocast",
    "perturbation": "perturbation",
    "perturbation-radius": "perturbation_radius",
    "qn-history": "qn_history",
    "qn-interval": "qn_interval",
    "qn-beta": "qn_beta",
    "qn-damping": "qn_damping",
}
# What multiplies the learning rate of a round, whoever set it: a schedule over the rounds of a run.
_SCALE = "learning-rate-scale"


@dataclass(frozen=True)
class LocalTraining:
    """One client's work in one round: how long, in which batches, by which optimiser.

    `steps` batches if it is not 0, else `epochs` passes over the client's samples. Each pass is a
    new order of all samples; its last batch may be short. `weight_decay` is the L2 term that
    torch.optim adds to the gradient, and with "adamw" the share of a weight, times the learning
    rate, that each step takes off it (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2). `prox_mu`
    is the FedProx coefficient (Li et al., arXiv:1812.06127, eq. 2: mu/2 times the squared distance to
    the weights that the round began with). `autocast` computes the forward pass in bfloat16.
    `perturbation` adds noise of `perturbation_radius` to the weights while a gradient is taken (see
    `fedeff.clients.perturbation`); radius 0 is the kind's usual one. `qn_history`, `qn_interval`,
    `qn_beta` and `qn_damping` are those of the optimizer "slim-qn" (see `fedeff.clients.slim_qn`),
    which may have momentum too. `penalty` is a term of the loss that depends on the weights alone,
    `objective` a loss in place of the cross-entropy of labels, `dp_sgd` clips each row's gradient and
    adds noise. autocast, perturbation, "slim-qn", a penalty, an objective and dp_sgd go by the plain loop.
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 10
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    prox_mu: float = 0.0
    autocast: bool = False
    device: str = "cpu"
    perturbation: Perturbation = "none"
    perturbation_radius: float = 0.0
    qn_history: int = 10
    qn_interval: int = 50
    qn_beta: float = 0.999
    qn_damping: float = 0.01
    penalty: Penalty | None = None
    objective: Objective | None = None
    dp_sgd: DpSgd | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in _OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, _OPTIMIZERS)
        _whole("local-epochs", self.epochs, least=0 if self.steps else 1)
        _whole("local-steps", self.steps, least=0)
        _whole("batch-size", self.batch_size, least=1)
        _real("learning-rate", self.learning_rate, above_zero=True)
        for key in ("momentum", "weight-decay", "prox-mu", "perturbation-radius", "qn-beta"):
            _real(key, getattr(self, _KEYS[key]))
        _real("qn-damping", self.qn_damping, above_zero=True)
        for key in ("qn-history", "qn-interval"):
            _whole(key, getattr(self, _KEYS[key]), least=1)
        if not isinstance(self.autocast, bool):
            raise ConfigError(f"autocast is {self.autocast!r}; it must be true or false")
        if self.penalty is not None and not isinstance(self.penalty, Penalty):
            raise ConfigError(
                f"penalty is {self.penalty!r}; it must have the methods add_to and after_step of Penalty"
            )
        if self.objective is not None and not callable(self.objective):
            raise ConfigError(f"objective is {self.objective!r}; it must be callable, as Objective is")
        if self.dp_sgd is not None and (self.objective is not None or self.autocast):
            raise ConfigError(
                "dp_sgd clips the gradient of each row's cross-entropy in full precision; leave the "
                "objective and autocast out"
            )
        self._check_momentum()
        self._check_perturbation()
        _check_device(self.device)

    def _check_momentum(self) -> None:
        if self.optimizer == "momentum" and not 0 < self.momentum < 1:
            raise ConfigError(
                f"optimizer 'momentum' got momentum {self.momentum}; set it between 0 and 1, such as 0.9"
            )
        if self.optimizer not in ("momentum", "slim-qn") and self.momentum:
            raise ConfigError(
                f"momentum {self.momentum} has no effect with optimizer {self.optimizer!r}; "
                "use optimizer 'momentum' or 'slim-qn', or leave momentum at 0"
            )
        for key in ("momentum", "qn-beta", "qn-damping"):
            if getattr(self, _KEYS[key]) >= 1:
                raise ConfigError(f"{key} is {getattr(self, _KEYS[key])}; it must be below 1")

    def _check_perturbation(self) -> None:
        if self.perturbation not in _PERTURBATIONS:
            raise unknown_name("perturbation", str(self.perturbation), _PERTURBATIONS)
        if self.perturbation == "none" and self.perturbation_radius:
            raise ConfigError(
                f"perturbation-radius {self.perturbation_radius} has no effect without a perturbation; "
                "use perturbation 'smooth-out' or 'ada-smooth-out', or leave the radius at 0"
            )

    @property
    def noise_radius(self) -> float:
        """The radius of the perturbation, the kind's usual one where none was given."""
        return self.perturbation_radius or _USUAL_RADII.get(self.perturbation, 0.0)

    def overridden(self, config: Mapping[str, Any]) -> "LocalTraining":
        """A copy with the fields that a message's config sets; other keys are not looked at.

        `local-epochs` in a message puts an end to `local-steps`, unless the message sets both;
        `learning-rate-scale` multiplies the learning rate, the message's or the copied one.
        Raises ConfigError, naming the key, for a value of the wrong type or out of range.
        """
        changes = {name: config[key] for key, name in _KEYS.items() if key in config}
        if "epochs" in changes:
            changes.setdefault("steps", 0)
        told = replace(self, **changes) if changes else self
        if _SCALE not in config:
            return told
        _real(_SCALE, config[_SCALE], above_zero=True)
        return replace(told, learning_rate=told.learning_rate * config[_SCALE])

    def step_count(self, samples: int) -> int:
        """Optimiser steps that a client of so many samples takes in a round."""
        return self.steps or self.epochs * math.ceil(samples / self.batch_size)


@dataclass(frozen=True)
class Moments:
    """What an optimiser remembers of a client's steps: one set of arrays per moment, by parameter.

    Those of "momentum" are one set (the velocity), of "adam" and "adamw" two (mean and square), of
    "sgd" none, of "slim-qn" the velocity and what `LayerCurvature` gathers. The default remembers
    nothing.
    """

    optimizer: str = ""
    steps: int = 0  # taken so far, on which corrections of early means depend
    arrays: tuple[Mapping[str, Array], ...] = ()

    def of(self, optimizer: str) -> "Moments":
        """These, or none where another optimizer gathered them."""
        return self if self.optimizer == optimizer else Moments()


@dataclass(frozen=True)
class Trained:
    """A client's model after local training, by state key, and how it got there.

    `loss` is the mean over the samples trained on, each at the weights it met; `examples` is the
    number of samples that the client has; `moments` are there where they were asked for, `measures` are
    means like the loss, of what the objective measures beside it.
    """

    arrays: dict[str, Array]
    steps: int
    loss: float
    examples: int
    moments: Moments | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


def batches(samples: int, training: LocalTraining, rng: np.random.Generator) -> Iterator[Array]:
    """Row numbers (int64, at most `batch_size` of them) of each step, in the order drawn from `rng`.

    Raises ConfigError for a client without samples.
    """
    if samples < 1:
        raise ConfigError("a client without samples cannot train; partition the data without empty clients")
    remaining = training.step_count(samples)
    while remaining:
        order = rng.permutation(samples)
        for begin in range(0, samples, training.batch_size)[:remaining]:
            yield order[begin : begin + training.batch_size]
            remaining -= 1


def _whole(key: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} is {value!r}; it must be a whole number of at least {least}")


def _real(key: str, value: object, *, above_zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (above_zero and value == 0):  # type: ignore[operator]
        bound = "above 0" if above_zero else "at least 0"
        raise ConfigError(f"{key} is {value!r}; it must be a finite number {bound}")


def _check_device(device: str) -> None:
    # Whether it is there is asked where training runs: the process that writes the value may differ.
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {device!r} is no torch device; use 'cpu', 'cuda' or 'cuda:0'") from error


assert set(_KEYS.values()) <= {one.name for one in fields(LocalTraining)}
