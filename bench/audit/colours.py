"""Real colour images of 32x32 pixels, one row: 3,072 unknowns."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from bench.audit.by_hand import seeded, shown_of
from bench.audit.crops import crops, photographs
from bench.audit.networks import SmoothNet
from bench.audit.tried import PSNR, by_any, reached, seconds, spread, tried
from bench.figures import Figure
from bench.seeded.row import Measured, Row, Value
from fedeff.audit.attacks.table import attack_of
from fedeff.models import build

__all__ = ["row"]

_CLASSES = 10
_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "smooth": lambda: SmoothNet(channels=3, side=32, classes=_CLASSES),
    "cnn": lambda: build("cnn", classes=_CLASSES, input_shape=(3, 32, 32)),
}
_ATTACKS = {
    "smooth": ("r-gap", "levenberg-marquardt", "dlg"),
    "cnn": ("r-gap",),
}
_TARGET = "smooth"  # the network of which the target is asked
_ASKED = ("smooth, r-gap", "smooth, levenberg-marquardt")
_LEAST_DB = 40.0
_BUDGET_S = 30.0


def row() -> Row:
    """A smooth network and the built-in CNN."""
    settings: Mapping[str, Value] = {
        "attacks": str(_ATTACKS),
        "budget_s": _BUDGET_S,
        "photographs": ", ".join(photographs()),
    }
    return Row(
        "rgb-b1",
        "Colour images of 32x32 pixels, one row",
        settings,
        _run,
        _figures,
        _NOTE,
        seeds=range(10),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    x, y = crops(1, seed), np.array([seed % _CLASSES])
    measured = {}
    for name, make in _NETWORKS.items():
        shown = shown_of(seeded(make, seed), x, y, classes=_CLASSES)
        for attack in _ATTACKS[name]:
            measured[f"{name}, {attack}"] = tried(attack_of(attack), shown, _BUDGET_S, seed)
    return measured


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = [by_any(seeds, _TARGET, _ATTACKS[_TARGET], _LEAST_DB, share=90)]
    for case in seeds[0]:
        asked = case in _ASKED
        least = _LEAST_DB if asked else None
        found += [
            Figure(f"{case}: PSNR", spread(seeds, case, PSNR), at_least=least, unit="dB", digits=0),
            reached(seeds, case, _LEAST_DB, share=90 if asked else None),
            seconds(seeds, case, 30.0 if asked else None),
        ]
    return found


_NOTE = f"""Crops from random places of the photographs that scikit-learn brings, and of SciPy's where
it has been downloaded: {", ".join(photographs())}.
The app has no such data: views are made by hand, of fedeff's training loop after one step. The smooth
network has two convolutions with sigmoids and a dense layer; cnn is the built-in one. Labels, which these
images do not have, are numbered by the seed; the attack infers them. Who attacks tries all that there is."""
