"""The table of models: what each name builds, how large it is, and what it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.models.convolutional import LeNet
from fedeff.models.linear import Logistic, Perceptron
from fedeff.models.recurrent import CharacterModel, Gru, Lstm
from fedeff.models.residual import ResNet20, SmallResNet20
from fedeff.models.transformer import Transformer

__all__ = ["ModelCard", "build", "describe", "model_names"]

Task = Literal["classify", "next-character"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelCard:
    """What a model is: its name, trainable parameters, the shape of one input, its task.

    For "classify" an input is float32 of `input_shape` and the output is (n, classes) logits; for
    "next-character" an input is int64 of shape (length,) and the output is (n, length, classes).
    """

    name: str
    parameters: int
    input_shape: Shape
    task: Task
    classes: int
    summary: str


@dataclass(frozen=True)
class _Entry:
    make: Callable[[int, Shape], nn.Module]
    task: Task
    classes: int
    input_shape: Shape
    summary: str


_IMAGE, _TEXT = (1, 28, 28), (80,)
_TABLE = {
    "cnn": _Entry(LeNet, "classify", 10, _IMAGE, "two 5x5 convolutions with pooling, two dense layers"),
    "mlp": _Entry(Perceptron, "classify", 10, _IMAGE, "one hidden layer of 64"),
    "logistic": _Entry(Logistic, "classify", 10, _IMAGE, "logistic regression: one dense layer"),
    "resnet20": _Entry(ResNet20, "classify", 10, (3, 32, 32), "ResNet-20 with GroupNorm"),
    "resnet20-small": _Entry(
        SmallResNet20, "classify", 10, _IMAGE, "ResNet-20 at half width and half resolution"
    ),
    "gru": _Entry(
        lambda classes, _: CharacterModel(Gru, classes),
        "next-character",
        90,
        _TEXT,
        "characters, one GRU layer of 128",
    ),
    "lstm": _Entry(
        lambda classes, _: CharacterModel(Lstm, classes),
        "next-character",
        90,
        _TEXT,
        "characters, one LSTM layer of 128",
    ),
    "transformer": _Entry(
        lambda classes, shape: Transformer(classes, shape[0]),
        "next-character",
        90,
        _TEXT,
        "characters, two causal attention layers of 128",
    ),
}


def model_names() -> tuple[str, ...]:
    """The names that `build` knows, in the order of the table."""
    return tuple(_TABLE)


def _entry(name: str) -> _Entry:
    if name not in _TABLE:
        raise unknown_name("model", name, _TABLE)
    return _TABLE[name]


def build(name: str, *, classes: int = 10, input_shape: Shape = _IMAGE, seed: int = 0) -> nn.Module:
    """A new model on the CPU with weights drawn from `seed`; torch's global generator is untouched.

    `input_shape` is (channels, height, width) for images and (length,) for characters, where
    `classes` is the size of the vocabulary. Raises ConfigError for an unknown name or a shape that
    the model cannot read.

    >>> sum(p.numel() for p in build("mlp").parameters())
    50890
    """
    entry = _entry(name)
    _check(name, entry, classes, input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.make(classes, input_shape)


def describe(name: str, *, classes: int | None = None, input_shape: Shape | None = None) -> ModelCard:
    """The card of a model, for its usual input or the given one. Allocates no weights."""
    entry = _entry(name)
    classes, shape = classes or entry.classes, input_shape or entry.input_shape
    _check(name, entry, classes, shape)
    with torch.device("meta"):
        model = entry.make(classes, shape)
    count = sum(p.numel() for p in model.parameters())
    return ModelCard(name, count, shape, entry.task, classes, entry.summary)


def _check(name: str, entry: _Entry, classes: int, input_shape: Shape) -> None:
    if classes < 2:
        raise ConfigError(f"model {name!r} got {classes} classes; it needs at least 2")
    if not input_shape or min(input_shape) < 1:
        raise ConfigError(f"model {name!r} got input shape {input_shape}; every dimension must be at least 1")
    images_only = name in ("cnn", "resnet20", "resnet20-small")
    if images_only and len(input_shape) != 3:
        raise ConfigError(f"model {name!r} reads (channels, height, width), got input shape {input_shape}")
    if name == "transformer" and len(input_shape) != 1:
        raise ConfigError(f"model {name!r} reads (length,), got input shape {input_shape}")
