"""Views and truths made by hand, from a torch network and rows: what a production run would show."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedeff.audit.truth import Truth
from fedeff.audit.view import Exchange, Kind, NDArray, Public, ServerView, Told
from fedeff.clients import LocalTraining, train_loop
from fedeff.clients.data import Samples
from fedeff.clients.loop import mean_loss
from fedeff.clients.weights import read_weights
from fedeff.data import load

ONE_STEP = LocalTraining(epochs=1, batch_size=10_000, learning_rate=0.05)


class SmoothNet(nn.Module):
    """Two convolutions with sigmoids and a dense layer: enough to tell small images, easy to invert."""

    def __init__(self, channels: int = 1, side: int = 8, classes: int = 10, width: int = 12) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 5, padding=2)
        self.fc = nn.Linear(width * (side // 2) ** 2, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x))))
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `make` gives, its weights drawn from the seed; torch's global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def digits(rows: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Some digits (rows, 1, 8, 8) in [0, 1] and their labels."""
    train = load("digits").train
    drawn = np.random.default_rng(seed).choice(len(train.y), rows, replace=False)
    return train.x[drawn].astype(np.float32) / 16, train.y[drawn].astype(np.int64)


def view_of(
    network: nn.Module,
    x: NDArray,
    y: NDArray,
    *,
    training: LocalTraining = ONE_STEP,
    kind: Kind = "change",
    noise: float = 0.0,
    known: Mapping[str, NDArray] | None = None,
    told_std: float | None = None,
    informed: bool = False,
    classes: int = 10,
    exact: bool = False,
    seed: int = 0,
) -> tuple[ServerView, Truth]:
    """What a server sees of one client with rows `x`, `y`, and these rows.

    Noise of that standard deviation goes on every value, and is on record unless `told_std` says
    something else; of the arrays in `known` only those entries are shown. Weights travel as float32 as the
    client has them; with `exact` the client computes in float64.
    """
    network = copy.deepcopy(network).double() if exact else copy.deepcopy(network)
    fresh, weights = copy.deepcopy(network), read_weights(network)
    values = _gradient(network, x, y) if kind == "gradient" else _change(network, x, y, training, seed)
    rng = np.random.default_rng(seed + 1)
    std = noise if told_std is None else told_std
    told = {}
    for key, value in values.items():
        shown = np.asarray(value, np.float64) + noise * rng.standard_normal(value.shape)
        mask = None if known is None else known.get(key)
        told[key] = Told(shown if mask is None else np.where(mask, shown, np.nan), mask, std)
    exchange = Exchange(1, weights, told, training, len(y), kind)
    task = "next-character" if x.dtype == np.int64 else "classify"
    public = Public(lambda: copy.deepcopy(fresh), task, classes, x.shape[1:])
    return ServerView(public, (exchange,), y if informed else None), Truth(x.astype(_wide(x)), y)


def some_known(network: nn.Module, share: float, seed: int = 0) -> dict[str, NDArray]:
    """Random entries of each array, that share of them."""
    rng = np.random.default_rng(seed)
    return {key: rng.random(value.shape) < share for key, value in network.state_dict().items()}


def psnr(found: NDArray, truth: NDArray) -> float:
    """Decibels of the mean over rows, for values in [0, 1], rows in order."""
    return float(-10 * np.log10(np.mean((np.clip(found, 0, 1) - truth) ** 2) + 1e-30))


def _wide(x: NDArray) -> type:
    return np.int64 if x.dtype == np.int64 else np.float64


def _samples(network: nn.Module, x: NDArray, y: NDArray) -> Samples:
    inputs = torch.from_numpy(x)
    if inputs.is_floating_point():
        inputs = inputs.to(next(network.parameters()).dtype)
    return Samples(inputs, torch.from_numpy(y))


def _gradient(network: nn.Module, x: NDArray, y: NDArray) -> dict[str, NDArray]:
    samples = _samples(network, x, y)
    own = dict(network.named_parameters())
    network.train()
    found = torch.autograd.grad(mean_loss(network(samples.x), samples.y), list(own.values()))
    return {key: gradient.numpy() for key, gradient in zip(own, found, strict=True)}


def _change(
    network: nn.Module, x: NDArray, y: NDArray, training: LocalTraining, seed: int
) -> dict[str, NDArray]:
    before = read_weights(network)
    after = train_loop(network, before, _samples(network, x, y), training, np.random.default_rng(seed)).arrays
    return {key: after[key].astype(np.float64) - before[key].astype(np.float64) for key in before}


def largest_known(view, share=0.1):
    """The view of which only the largest entries of each array came, and a bound on the others."""
    told = {}
    for key, one in view.first.told.items():
        least = np.quantile(np.abs(one.values), 1 - share)
        known = np.abs(one.values) >= least
        told[key] = Told(np.where(known, one.values, 0.0), known, one.std, least)
    return replace(view, exchanges=(replace(view.first, told=told),))
