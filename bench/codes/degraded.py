"""Degraded accuracy: how right the answers are that a code gives in place of those that did not come."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from bench.clients.shrinking import Phase, arrays_of, pooled, trained
from bench.figures import Figure
from bench.harness import ROOT
from bench.seeded.row import Case, Measured, Row, difference
from fedeff.clients import evaluate
from fedeff.clients.data import Samples
from fedeff.clients.weights import load_weights
from fedeff.codes.berrut import Berrut
from fedeff.codes.code import Code
from fedeff.codes.degraded import degraded_accuracy, worker_outputs
from fedeff.codes.learned import LearnedCode, PackedCode, ParityModel, Recipe, ResidualCode, fit
from fedeff.codes.learned.frozen import answers_of
from fedeff.codes.spline import Spline
from fedeff.core.rng import generator
from fedeff.data import Dataset, load
from fedeff.models import build

__all__ = ["degraded_rows"]

_BUDGET_S, _LONG_S = 15.0, 60.0  # of one core, to train one code; the longer where a target is asked for
_EPOCHS, _RATE, _EVERY = 8, 0.05, 2  # of the function's own training
_PATTERNS, _DECODED = 32, 80_000  # patterns, and items of all of them together, at most
_SEEDS = range(1, 4)  # settings of ours were chosen on seed 0
_KEPT = ROOT / "build" / "codes" / "functions"
_SIZES = ((2, 1), (2, 2), (4, 1), (4, 2), (10, 1), (10, 2), (10, 5))
_WHOLE, _DEFAULT = "nothing missing", "default answer"
_OURS, _SAME = "ours", "ours, parity workers run the function"
_DEGRADED, _WORST = "degraded accuracy, %", "worst pattern, %"
_TRAINED: Mapping[str, Callable[[int, int], Recipe]] = {
    _OURS: PackedCode,
    _SAME: ResidualCode,
    "published, MLP": partial(LearnedCode, encoder="mlp"),
    "published, Conv": partial(LearnedCode, encoder="conv"),
    "ParM, sum": partial(ParityModel, combine="sum"),
    "ParM, concat": partial(ParityModel, combine="concat"),
}


def degraded_rows() -> list[Row]:
    """The CNN at every size of the table, and a small ResNet at the smallest."""
    sizes = [("cnn", k, r) for k, r in _SIZES]
    return [_row(model, k, r) for model, k, r in [*sizes, ("resnet20-small", 2, 1)]]


def _budget_s(k: int, r: int) -> float:
    return _LONG_S if (k, r) == (2, 1) else _BUDGET_S


def _trained(k: int) -> Mapping[str, Callable[[int, int], Recipe]]:
    """The codes to train; where parity workers run the function itself, a budget like this is for pairs."""
    return {name: recipe for name, recipe in _TRAINED.items() if k == 2 or name != _SAME}


def _row(model: str, k: int, r: int) -> Row:
    settings: Mapping[str, bool | int | float | str] = {
        "model": model,
        "k": k,
        "r": r,
        "budget_s": _budget_s(k, r),
        "function": f"{_EPOCHS} epochs of every {_EVERY}, rate {_RATE}",
        "codes": ", ".join(_trained(k)),
    }
    title = f"Degraded accuracy, {model}, k={k}, r={r}"
    run = partial(_run, model=model, k=k, r=r)
    return Row(
        f"degraded-{model}-{k}-{r}",
        title,
        settings,
        run,
        partial(_figures, k=k, r=r),
        _NOTE,
        seeds=_SEEDS,
        beside_others=True,
    )


def _run(seed: int, *, model: str, k: int, r: int) -> Measured:
    """Every code on the same function, the same groups of test images and the same erasures."""
    torch.set_num_threads(1)
    dataset = _dataset()
    train, test = pooled(dataset.train, slice(0, None, _EVERY)), pooled(dataset.test)
    function = _function(model, train, seed)
    whole = 100 * evaluate(function, arrays_of(function), test).accuracy
    common = 100 * float(np.bincount(test.y.numpy()).max() / len(test.y))
    measured: dict[str, Case] = {_WHOLE: {_DEGRADED: whole}, _DEFAULT: {_DEGRADED: common}}
    for name, code in _codes(function, train, k, r, seed):
        measured[name] = _degraded(code, function, test, seed)
    return measured


def _codes(function: nn.Module, train: Samples, k: int, r: int, seed: int) -> Iterable[tuple[str, Code]]:
    said = answers_of(function.eval(), train.x)  # once for all codes
    for name, recipe in _trained(k).items():
        yield (
            name,
            fit(
                recipe(k, r),
                function,
                train.x,
                labels=train.y,
                outputs=said,
                budget_s=_budget_s(k, r),
                seed=seed,
            ),
        )
    yield "Berrut", Berrut(k, r)
    yield "spline", Spline(k, r)


def _degraded(code: Code, function: nn.Module, test: Samples, seed: int) -> Case:
    """Accuracy over estimated answers to the test images, as many missing as the code bears."""
    rng = generator(seed, purpose="test groups")
    groups = rng.permutation(len(test.y))[: len(test.y) // code.k * code.k].reshape(-1, code.k)
    outputs = worker_outputs(code, function, test.x.numpy()[groups])
    missing = min(code.k, code.r)
    patterns = min(_PATTERNS, math.comb(code.k, missing))
    found = degraded_accuracy(
        code,
        outputs,
        test.y.numpy()[groups],
        missing=missing,
        patterns=patterns,
        groups_each=max(1, _DECODED // (patterns * code.k)),
        seed=seed,
    )
    return {_DEGRADED: 100 * found.mean, _WORST: 100 * found.worst}


def _function(model: str, train: Samples, seed: int) -> nn.Module:
    """The frozen function; trained once, then kept beside the results, since all sizes code the same."""
    module, path = build(model, seed=seed), _KEPT / f"{model}-{_EPOCHS}-{_EVERY}-{_RATE}-{seed}.safetensors"
    if not path.exists():
        weights = trained(module, arrays_of(module), train, [Phase(_EPOCHS, _RATE)], seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        save_file(weights, whole)
        whole.replace(path)
    load_weights(module, load_file(path))
    return module


def _figures(seeds: Sequence[Measured], *, k: int, r: int) -> list[Figure]:
    lost = difference(seeds, _DEGRADED, _WHOLE, _OURS)
    others = [*(name for name in _trained(k) if name not in (_OURS, _SAME)), "Berrut", "spline", _DEFAULT]
    ahead = [difference(seeds, _DEGRADED, _OURS, other) for other in others]
    nearest = min((one for one in ahead if one is not None), key=lambda one: one.median, default=None)
    return [
        Figure("ours: accuracy lost", lost, at_most=0.7 if (k, r) == (2, 1) else None, unit="points"),
        Figure("ours ahead of the next best code", nearest, at_least=0.0, unit="points"),
    ]


@cache
def _dataset() -> Dataset:
    return load("fashion-mnist")


_NOTE = f"""Accuracy is over test images whose own answer is missing: the mean over every choice of
min(r, k) lost originals, or {_PATTERNS} of them, with every parity there; {_DECODED:,} decoded items at
most, the same for all codes. Every trained code has {_LONG_S:.0f} s of one core at k=2, r=1 and
{_BUDGET_S:.0f} s elsewhere, by the processor's clock.
The function learned from half of the training images for {_EPOCHS} epochs; codes learn from the same. The
settings of ours were chosen on test images of seed 0, which is not here."""
