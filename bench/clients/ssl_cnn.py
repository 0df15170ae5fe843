"""Structured sparsity learning: a ResNet-20 that is cut to what its group Lasso left."""

from collections.abc import Sequence
from functools import cache

from bench.clients.shrinking import Phase, arrays_of, parameters, pooled, score, speeds, trained
from bench.figures import Figure
from bench.seeded.row import Measured, Row, difference, ratio
from fedeff.clients.structure import Sparsity
from fedeff.data import Dataset, load
from fedeff.models import apply, build, shrink, shrinkable

__all__ = ["row"]

_MODEL, _GROUPS = "resnet20-small", ("filters", "depth")
_EVERY = 6  # of the training images one in so many is used
_EPOCHS, _PENALISED = 10, 6  # of all, and of those with the penalty
_RATE, _FINE_RATE = 0.1, 0.05
_STRENGTH, _THRESHOLD = 0.003, 0.01
_WHOLE, _CUT, _SAME = "whole", "cut by SSL", "same size from scratch"
_ACCURACY, _BLOCKS, _PARAMETERS = "test accuracy, %", "blocks", "parameters"
_INFERENCE, _STEP = "inference, ms", "training step, ms"


def row() -> Row:
    """One seed of both sides, and what is asked of the seeds."""
    settings: dict[str, bool | int | float | str] = {
        "model": _MODEL,
        "every": _EVERY,
        "epochs": _EPOCHS,
        "penalised": _PENALISED,
        "rate": _RATE,
        "fine-rate": _FINE_RATE,
        "groups": "+".join(_GROUPS),
        "strength": _STRENGTH,
        "threshold": _THRESHOLD,
    }
    title = "Structured sparsity: a ResNet-20 cut to the blocks and filters it needs"
    return Row("ssl", title, settings, _run, _figures, _NOTE)


def _run(seed: int) -> Measured:
    """Networks that are trained for the same number of epochs, the cut one while it is whole and after."""
    dataset = _dataset()
    train, test = pooled(dataset.train, slice(0, None, _EVERY)), pooled(dataset.test)
    whole = build(_MODEL, seed=seed)
    start = arrays_of(whole)
    baseline = trained(whole, start, train, [Phase(_EPOCHS, _RATE)], seed)
    penalty = Sparsity("ssl", _STRENGTH, _THRESHOLD, _GROUPS).penalty(whole)
    penalised = trained(whole, start, train, [Phase(_PENALISED, _RATE, penalty, fall=0.5)], seed)
    structure, weights = shrink(whole, penalised, _THRESHOLD)
    small = apply(structure, whole)
    cut = trained(small, weights, train, [Phase(_EPOCHS - _PENALISED, _FINE_RATE)], seed + 1000)
    direct = apply(structure, build(_MODEL, seed=seed + 1))
    scratch = trained(direct, arrays_of(direct), train, [Phase(_EPOCHS, _RATE)], seed)
    full = build(_MODEL)
    fast = speeds([build(_MODEL), apply(structure, full)], train)
    return {
        name: {
            _ACCURACY: score(module, held, test)[0],
            _BLOCKS: len(shrinkable(module).blocks()),
            _PARAMETERS: parameters(module),
            _INFERENCE: None if speed is None else speed.inference_ms,
            _STEP: None if speed is None else speed.step_ms,
        }
        for name, module, held, speed in (
            (_WHOLE, full, baseline, fast[0]),
            (_CUT, small, cut, fast[1]),
            (_SAME, direct, scratch, None),
        )
    }


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    lost = difference(seeds, _ACCURACY, _WHOLE, _CUT)
    return [
        Figure("inference faster", ratio(seeds, _INFERENCE, _WHOLE, _CUT), at_least=3.0),
        Figure("training step faster", ratio(seeds, _STEP, _WHOLE, _CUT), at_least=3.0),
        Figure("fewer parameters", ratio(seeds, _PARAMETERS, _WHOLE, _CUT)),
        Figure("CNN cut by SSL: accuracy lost", lost, at_most=0.5, unit="points"),
    ]


@cache
def _dataset() -> Dataset:
    return load("fashion-mnist")


_NOTE = """"""
