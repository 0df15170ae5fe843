"""Which learned code to fit, as values."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from torch import Tensor, nn

from fedeff.codes.learned.frozen import multiply_adds
from fedeff.codes.learned.losses import LOSSES, Loss
from fedeff.codes.learned.network import CodeNetwork, Shapes
from fedeff.codes.learned.packed import PackedNetwork, affordable_width
from fedeff.codes.learned.packing import levels_of
from fedeff.codes.learned.parity_model import COMBINATIONS, Combination, ParityModelNetwork
from fedeff.codes.learned.published import ENCODERS, Encoder, PublishedNetwork
from fedeff.codes.learned.residual import PARITY_WORKERS, ParityWorkers, ResidualNetwork
from fedeff.codes.linear import Matrix
from fedeff.codes.mds import MDS
from fedeff.core.errors import CodeError, ConfigError, unknown_name

__all__ = ["RECIPES", "LearnedCode", "PackedCode", "ParityModel", "Recipe", "ResidualCode"]


class Recipe(Protocol):
    """A kind of learned code and its sizes: everything that is decided before training."""

    @property
    def k(self) -> int:
        """Inputs of a group."""
        ...

    @property
    def r(self) -> int:
        """Parities."""
        ...

    @property
    def groups(self) -> int:
        """Groups in a batch of training."""
        ...

    @property
    def learning_rate(self) -> float:
        """The highest, of Adam."""
        ...

    def resolved(self, function: nn.Module, sample: Tensor) -> "Recipe":
        """The recipe with everything filled in that follows from the function and a `(1, ...)` input."""
        ...

    def network(self, shapes: Shapes, function: nn.Module | None) -> CodeNetwork:
        """New networks, of torch's global generator.

        Raises:
            CodeError: if it needs the function, whose architecture its parity models have.
            ConfigError: if it cannot code inputs or answers of these shapes.
        """
        ...


class _Plain:
    """What recipes have in common that take the training as the papers describe it."""

    @property
    def groups(self) -> int:
        """Groups in a batch of training, the least of the paper's."""
        return 32

    @property
    def learning_rate(self) -> float:
        """The highest, of Adam, the learned code's paper's."""
        return 1e-3

    def resolved(self, function: nn.Module, sample: Tensor) -> Self:
        """Itself: nothing follows from the function."""
        return self


@dataclass(frozen=True)
class LearnedCode(_Plain):
    """The published learned code (arXiv:1806.01259); parity workers run the function unchanged.

    Good at two inputs and one parity. The encoder "conv" costs hundreds of times what a small function
    does, and "mlp" has `(k d)^2` weights.
    """

    k: int
    r: int
    encoder: Encoder = "mlp"
    loss: Loss = "mse"

    def __post_init__(self) -> None:
        _check(self, encoder=ENCODERS, loss=LOSSES)

    def network(self, shapes: Shapes, function: nn.Module | None) -> CodeNetwork:
        """An encoder and a decoder."""
        return PublishedNetwork(self.k, self.r, shapes, self.encoder, self.loss)


@dataclass(frozen=True)
class ParityModel(_Plain):
    """ParM (arXiv:1905.00863): parity workers run models of the function's architecture.

    Weak beyond a few inputs: an error about any of them spoils the difference. For one parity the answers'
    coefficients are one; for more the paper asks for distinct ones such that any answers can be solved for,
    and here they are those of the `MDS` code, which rounding harms least.
    """

    k: int
    r: int
    combine: Combination = "sum"

    def __post_init__(self) -> None:
        _check(self, combine=COMBINATIONS)

    def network(self, shapes: Shapes, function: nn.Module | None) -> CodeNetwork:
        """Parity models with fresh weights."""
        known = _known(function, "ParityModel")
        parity: Matrix = np.ones((1, self.k)) if self.r == 1 else MDS(self.k, self.r).parity
        return ParityModelNetwork(parity, shapes, self.combine, known)


@dataclass(frozen=True)
class ResidualCode(_Plain):
    """Ours where parity workers must run the function: an MDS code and networks that correct it.

    With `parity="own"` they run copies of the function that are trained along. Not as good as `PackedCode`.
    """

    k: int
    r: int
    parity: ParityWorkers = "same"

    def __post_init__(self) -> None:
        _check(self, parity=PARITY_WORKERS)

    def network(self, shapes: Shapes, function: nn.Module | None) -> CodeNetwork:
        """Encoder and decoder, and parity models that begin as copies of the function."""
        parity = MDS(self.k, self.r).parity
        known = _known(function, "ResidualCode") if self.parity == "own" else None
        return ResidualNetwork(parity, shapes, known)


@dataclass(frozen=True)
class PackedCode:
    """Ours: parity workers run small models that answer every input of the group from a compact form of it.

    For classifiers of up to some thousand numbers, in groups of at most 24: an estimate is given as
    log-probabilities. Outputs must travel as they are, in float32 or wider. `width` is of the hidden
    layers; 0 takes the widest, up to 512, with which a parity model costs no more than the function.
    """

    k: int
    r: int
    width: int = 0

    def __post_init__(self) -> None:
        _check(self)
        levels_of(self.k)
        if self.width < 0:
            raise ConfigError(
                f"PackedCode: width is {self.width!r}, expected a whole number, 0 for automatic"
            )

    @property
    def groups(self) -> int:
        """Groups in a batch of training, so many that it has about 128 inputs."""
        return max(1, 128 // self.k)

    @property
    def learning_rate(self) -> float:
        """The highest, of Adam."""
        return 2e-3

    def resolved(self, function: nn.Module, sample: Tensor) -> "PackedCode":
        """With the width that the function's cost allows, where none was given."""
        if self.width:
            return self
        shapes = Shapes(tuple(sample.shape[1:]), tuple(function(sample).shape[1:]))
        return replace(self, width=affordable_width(multiply_adds(function, sample), self.k, shapes))

    def network(self, shapes: Shapes, function: nn.Module | None) -> CodeNetwork:
        """Features, zero until prepared, and parity models."""
        return PackedNetwork(self.k, self.r, shapes, self.width)


RECIPES: dict[str, type[LearnedCode] | type[ParityModel] | type[ResidualCode] | type[PackedCode]] = {
    recipe.__name__: recipe for recipe in (LearnedCode, ParityModel, ResidualCode, PackedCode)
}


def _check(recipe: Recipe, **choices: tuple[str, ...]) -> None:
    kind = type(recipe).__name__
    for name in ("k", "r"):
        size = getattr(recipe, name)
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"{kind}: {name} is {size!r}, expected a whole number from 1")
    for name, known in choices.items():
        if getattr(recipe, name) not in known:
            raise unknown_name(f"{kind} {name}", str(getattr(recipe, name)), known)


def _known(function: nn.Module | None, kind: str) -> nn.Module:
    if function is None:
        raise CodeError(
            f"a {kind} has parity models of its function's architecture; give the function as well"
        )
    return function
