"""Digits of 8x8 pixels: one row and eight, fresh and trained models, rectified and smooth."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from bench.audit.by_hand import seeded, shown_of, trained
from bench.audit.networks import SmoothNet
from bench.audit.production import captured, trained_weights
from bench.audit.tried import PSNR, Shown, by_any, reached, seconds, spread, tried
from bench.figures import Figure
from bench.seeded.row import Measured, Row, Value
from fedeff.app import Settings
from fedeff.audit.attacks.table import attack_of
from fedeff.audit.view import NDArray
from fedeff.clients import LocalTraining
from fedeff.core.rng import generator
from fedeff.data import load

__all__ = ["digit_rows"]

_FRESH, _TRAINED = "fresh", "trained"
_TRAINED_ROUNDS = 10
_BY_HAND = LocalTraining(epochs=10, batch_size=10, learning_rate=0.5)
_SINGLE, _EIGHT = 10.0, 20.0  # seconds that an attack may take
_LOCAL = LocalTraining(epochs=5, batch_size=4, learning_rate=0.05)  # five steps, each on all four rows
_ATTACK, _ONE_ROW = "levenberg-marquardt", "r-gap"


def digit_rows() -> list[Row]:
    """One row a batch, eight rows a batch, four rows in five local steps."""
    told: dict[str, Value] = {"rounds": _TRAINED_ROUNDS, "epochs": _BY_HAND.epochs}
    return [
        Row(
            "digits-b1",
            "Digits, one row",
            {**told, "attacks": f"{_ATTACK}, {_ONE_ROW}", "budget_s": _SINGLE},
            partial(_run, batch=1, budget_s=_SINGLE),
            partial(_figures, share=100, most_s=1.0),
            _NOTE,
            seeds=range(20),
            beside_others=True,
        ),
        Row(
            "digits-b8",
            "Digits, eight rows",
            {**told, "attack": _ATTACK, "budget_s": _EIGHT},
            partial(_run, batch=8, budget_s=_EIGHT),
            partial(_figures, share=90, most_s=15.0),
            _NOTE,
            seeds=range(10),
            beside_others=True,
        ),
        Row(
            "digits-fedavg",
            "Digits, five local steps on four rows",
            {"attack": _ATTACK, "budget_s": _EIGHT, "steps": _LOCAL.epochs, "batch": _LOCAL.batch_size},
            _run_local,
            partial(_figures, share=90, most_s=15.0),
            _LOCAL_NOTE,
            seeds=range(10),
            beside_others=True,
        ),
    ]


def _run(seed: int, *, batch: int, budget_s: float) -> Measured:
    attacks = (_ATTACK, _ONE_ROW) if batch == 1 else (_ATTACK,)
    smooth = dict(_smooth(batch, seed))
    found = {f"{name}, {attack}": shown for attack in attacks for name, shown in smooth.items()}
    with _built_in("cnn", batch, seed) as cases:
        found |= {f"{name}, {attacks[-1]}": shown for name, shown in cases.items()}
    if batch == 1:
        with _built_in("mlp", batch, seed) as cases:
            found |= {f"{name}, phong": shown for name, shown in cases.items()}
    return {
        name: tried(attack_of(name.rpartition(", ")[2]), shown, budget_s, seed)
        for name, shown in found.items()
    }


def _run_local(seed: int) -> Measured:
    x, y = _digits()
    at = generator(seed, purpose="victim's rows").choice(len(y), _LOCAL.batch_size, replace=False)
    shown = shown_of(seeded(SmoothNet, seed), x[at], y[at], classes=10, training=_LOCAL)
    return {f"smooth, fresh, {_ATTACK}": tried(attack_of(_ATTACK), shown, _EIGHT, seed)}


@contextmanager
def _built_in(model: str, batch: int, seed: int) -> Iterator[dict[str, Shown]]:
    """Views of a client of the built-in app, of a fresh and of a trained model."""
    fresh = Settings(dataset="digits", model=model, partition="iid", batch_size=batch, local_steps=1)
    with trained_weights(fresh, _TRAINED_ROUNDS, seed) as later:
        yield {
            f"{model}, {state}": captured(settings, seed)
            for state, settings in ((_FRESH, fresh), (_TRAINED, later))
        }


def _smooth(batch: int, seed: int) -> Iterator[tuple[str, Shown]]:
    """Views of a client with a smooth network, which the app does not have."""
    x, y = _digits()
    network = seeded(SmoothNet, seed)
    at = generator(seed, purpose="victim's rows").choice(len(y), batch, replace=False)
    drawn_by_torch = seeded(lambda: SmoothNet(spread=0.0), seed)
    for state, now in (
        (_FRESH, network),
        (_TRAINED, trained(network, x, y, _BY_HAND, seed)),
        ("fresh as torch draws it", drawn_by_torch),
    ):
        yield f"smooth, {state}", shown_of(now, x[at], y[at], classes=10)


def _digits() -> tuple[NDArray, NDArray]:
    train = load("digits").train
    return train.batch(np.arange(len(train)))


def _figures(seeds: Sequence[Measured], *, share: float, most_s: float) -> list[Figure]:
    attacks: dict[str, list[str]] = {}
    for case in seeds[0]:
        name, _, attack = case.rpartition(", ")
        attacks.setdefault(name, []).append(attack)
    found = []
    for name, several in attacks.items():
        found += [by_any(seeds, name, several, 40, share)] if len(several) > 1 else []
        for case in (f"{name}, {attack}" for attack in several):
            found += [
                Figure(f"{case}: PSNR", spread(seeds, case, PSNR), at_least=40, unit="dB", digits=0),
                reached(seeds, case, 40, share=share),
                seconds(seeds, case, most_s),
            ]
    return found


_NOTE = f"""Views of cnn and mlp (both rectified) are captured from the production path: the built-in
app, one step on one batch. The smooth network is not the app's; its client is fedeff's training loop,
its view made by hand. Its weights are drawn as in the code that published it (evenly, up to 0.5 in size)
unless the case says else: as torch draws them its sigmoids are all but linear. Labels are inferred.
Trained models: {_TRAINED_ROUNDS} rounds of all clients, or {_BY_HAND.epochs} epochs. Who
attacks tries all that there is: where two are tried on one view the better is counted, too."""

_LOCAL_NOTE = f"""The smooth network, fresh weights. The client has {_LOCAL.batch_size} rows and takes
{_LOCAL.epochs} steps of SGD on all of them; what it sends is the change after the last, which the attack
matches through the unrolled steps. Labels are inferred."""
