"""Top-k as a defence: nine tenths of an update left out, attacked with and without knowing which."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.audit.by_hand import seeded, shown_of
from bench.audit.networks import SmoothNet
from bench.audit.production import captured
from bench.audit.tried import PSNR, Shown, best_of, reached, seconds, spread, tried
from bench.figures import Figure
from bench.seeded.row import Measured, Row, Value
from fedeff.app import Settings
from fedeff.audit.attacks.table import attack_of
from fedeff.audit.naive import naive
from fedeff.audit.view import Told
from fedeff.core.rng import generator
from fedeff.data import load

__all__ = ["row"]

_KEPT = 0.1
_MODELS = ("cnn", "mlp")
_ATTACKS = {
    "smooth": ("levenberg-marquardt",),
    "cnn": ("levenberg-marquardt",),
    "mlp": ("phong", "levenberg-marquardt", "inverting-gradients"),
}
_BUDGET_S = 30.0
_AWARE, _NAIVE = "mask-aware", "naive"


def row() -> Row:
    """The app's models through its codec, and a smooth network."""
    settings: Mapping[str, Value] = {
        "kept": _KEPT,
        "models": str(_MODELS),
        "attacks": str(_ATTACKS),
        "budget_s": _BUDGET_S,
    }
    return Row(
        "top-k",
        "A tenth of the entries (top-k), one row",
        settings,
        _run,
        _figures,
        _NOTE,
        seeds=range(10),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    shown = {"smooth": _smooth(seed)}
    for model in _MODELS:
        settings = Settings(
            dataset="digits",
            model=model,
            partition="iid",
            batch_size=1,
            local_steps=1,
            codec=f"top_k({_KEPT})",
        )
        shown[model] = captured(settings, seed)
    measured = {}
    for name, one in shown.items():
        for knows, view in ((_AWARE, one.view), (_NAIVE, naive(one.view))):
            for attack in _ATTACKS[name]:
                seen = Shown(view, one.truth)
                measured[f"{name}, {attack}, {knows}"] = tried(attack_of(attack), seen, _BUDGET_S, seed)
    return measured


def _smooth(seed: int) -> Shown:
    """A view of which the largest tenth of each array's entries is left."""
    train = load("digits").train
    at = generator(seed, purpose="victim's rows").choice(len(train), 1)
    x, y = train.batch(at)
    whole = shown_of(seeded(SmoothNet, seed), x, y, classes=10)
    told = {key: _largest(one) for key, one in whole.view.first.told.items()}
    return Shown(replace(whole.view, exchanges=(replace(whole.view.first, told=told),)), whole.truth)


def _largest(told: Told) -> Told:
    sizes = np.abs(told.values)
    least = np.sort(sizes, axis=None)[-max(1, round(_KEPT * sizes.size))]
    known = sizes >= least
    # The values of the others are not there to be seen: all that is known of them is that they are smaller.
    return Told(np.where(known, told.values, 0.0), known, within=float(least))


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = []
    for name, attacks in _ATTACKS.items():
        best = best_of(seeds, [f"{name}, {attack}, {_AWARE}" for attack in attacks])
        told = f"{name}, {_AWARE}: PSNR of the best attack"
        found.append(Figure(told, best, at_least=40, unit="dB", digits=0))
    for case in seeds[0]:
        least = 40 if case.endswith(_AWARE) else None
        found += [
            Figure(f"{case}: PSNR", spread(seeds, case, PSNR), at_least=least, unit="dB", digits=0),
            reached(seeds, case, 40, share=None),
            seconds(seeds, case, None),
        ]
    return found


_NOTE = f"""Digits, one step on one row, fresh weights. cnn and mlp are the built-in app's with
`codec=top_k({_KEPT})`, captured from the production path; of the smooth network, which is not the
app's, the largest tenth of each array is kept by hand. A naive attack takes what did not come for 0.
Labels are inferred. Who attacks tries all that there is."""
