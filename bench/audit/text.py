"""Text: eight sequences of sixteen tokens from a transformer's gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.audit.by_hand import ONE_STEP, seeded, shown_of
from bench.audit.tried import TOKENS, reached, seconds, spread, tried
from bench.figures import Figure
from bench.seeded.row import Measured, Row, Value
from fedeff.audit.attacks.table import attack_of
from fedeff.core.rng import generator
from fedeff.models.transformer import Transformer

__all__ = ["row"]

_VOCABULARY, _LENGTH, _WIDTH, _LAYERS, _HEADS = 2000, 16, 256, 4, 4
_LEARNING_RATE, _SMALL_RATE = 1.0, 0.05  # the app's for text, and for images
_CASES = ((1, _LEARNING_RATE), (4, _LEARNING_RATE), (8, _LEARNING_RATE), (8, _SMALL_RATE))
_TARGET = (8, _LEARNING_RATE)
_ATTACK = "dager"
_BUDGET_S = 60.0


def row() -> Row:
    """Three sizes of a batch; the target is the largest's."""
    settings: Mapping[str, Value] = {
        "vocabulary": _VOCABULARY,
        "length": _LENGTH,
        "width": _WIDTH,
        "layers": _LAYERS,
        "heads": _HEADS,
        "cases": str(_CASES),
        "attack": _ATTACK,
    }
    return Row("text", "Text", settings, _run, _figures, _NOTE, seeds=range(10), beside_others=True)


def _run(seed: int) -> Measured:
    network = seeded(
        lambda: Transformer(_VOCABULARY, _LENGTH, width=_WIDTH, layers=_LAYERS, heads=_HEADS), seed
    )
    rng, measured = generator(seed, purpose="texts"), {}
    shares = 1 / np.arange(1, _VOCABULARY + 1)  # Zipf's law, as words have it
    for batch, rate in _CASES:
        texts = rng.choice(_VOCABULARY, (batch, _LENGTH + 1), p=shares / shares.sum())
        training = replace(ONE_STEP, learning_rate=rate)
        shown = shown_of(network, texts[:, :-1], texts[:, 1:], classes=_VOCABULARY, training=training)
        measured[_case(batch, rate)] = tried(attack_of(_ATTACK), shown, _BUDGET_S, seed)
    return measured


def _case(batch: int, rate: float) -> str:
    return f"B={batch}, learning rate {rate:g}"


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = []
    for case in seeds[0]:
        asked = case == _case(*_TARGET)
        found += [
            Figure(
                f"{case}: tokens exact",
                spread(seeds, case, TOKENS),
                at_least=100 if asked else None,
                unit="%",
            ),
            reached(seeds, case, 100, share=100 if asked else None, measure=TOKENS),
            seconds(seeds, case, 2.0 if asked else None),
        ]
    return found


_NOTE = f"""fedeff's transformer with {_LAYERS} layers, width {_WIDTH}, a vocabulary of {_VOCABULARY:,}
tokens, texts of {_LENGTH}, which the app does not have: views are made by hand, of fedeff's training
loop after one step. Tokens are drawn by Zipf's law, so that some come often. The app trains text with
a learning rate of 1; with a smaller one float32 rounding of the weights hides more of their change. The
attack is DAGER; tokens that it is not sure of it leaves open, which counts as wrong."""
