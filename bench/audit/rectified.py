"""Rectified CNNs, one row: where second-order attacks have no smooth landscape to descend."""

from collections.abc import Mapping, Sequence

from bench.audit.production import captured
from bench.audit.tried import PSNR, by_any, reached, seconds, spread, tried
from bench.figures import Figure
from bench.seeded.row import Measured, Row
from fedeff.app import Settings
from fedeff.audit.attacks.table import attack_of

__all__ = ["row"]

_DATA = ("digits", "fashion-mnist")
_LEAST_DB = 25.0
_ATTACKS: Mapping[str, float] = {  # seconds that each may take
    "r-gap": 30.0,
    "levenberg-marquardt": 12.0,
    "inverting-gradients": 12.0,
}


def row() -> Row:
    """The built-in CNN on both image sets, each attack that fits."""
    return Row(
        "relu-cnn-b1",
        "ReLU CNN, one row",
        {"data": str(_DATA), "attacks": str(dict(_ATTACKS))},
        _run,
        _figures,
        _NOTE,
        seeds=range(10),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    measured = {}
    for data in _DATA:
        settings = Settings(dataset=data, model="cnn", partition="iid", batch_size=1, local_steps=1)
        shown = captured(settings, seed)
        for name, budget_s in _ATTACKS.items():
            measured[f"{data}, {name}"] = tried(attack_of(name), shown, budget_s, seed)
    return measured


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = [by_any(seeds, data, _ATTACKS, _LEAST_DB, share=90) for data in _DATA]
    for case in seeds[0]:
        found += [
            Figure(f"{case}: PSNR", spread(seeds, case, PSNR), unit="dB", digits=0),
            reached(seeds, case, _LEAST_DB, share=None),
            seconds(seeds, case, None),
        ]
    return found


_NOTE = """The built-in app with `model=cnn`, one step on one row, fresh weights, captured from the
production path. Who attacks tries all that there is, so the target is that of the better attack."""
