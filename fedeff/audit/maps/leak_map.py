"""What each layer alone gives away: a view in which one layer is known and nothing else, attacked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from fedeff.audit.attacks.labels import LabelInference, infer_labels
from fedeff.audit.attempts import Case, case_of
from fedeff.audit.judging.trial import Trial
from fedeff.audit.result import LayerLeak
from fedeff.audit.tiers import Effort
from fedeff.audit.victims import Victim
from fedeff.audit.view import Exchange, Labels, ServerView, Told

__all__ = ["Layer", "layer_cases", "layer_leaks", "layers_of"]

_ALL_BIASES = "all biases"
_MOST_LAYERS = 24  # of a deeper network those with the most entries: each costs an attack


@dataclass(frozen=True)
class Layer:
    """Arrays that are known together: those of one module, or the biases of all."""

    name: str
    keys: tuple[str, ...]
    entries: int


def layers_of(view: ServerView) -> tuple[Layer, ...]:
    """The layers of which something came, in the network's order, and all biases as one more."""
    trained = {key for key, _ in view.public.network().named_parameters()}
    told = {key: one for key, one in view.first.told.items() if key in trained and one.mask.any()}
    groups: dict[str, list[str]] = {}
    for key in told:
        groups.setdefault(key.rpartition(".")[0] or key, []).append(key)
    layers = [_layer(name, keys, told) for name, keys in groups.items()]
    largest = sorted(layers, key=lambda layer: -layer.entries)[:_MOST_LAYERS]
    shown = [layer for layer in layers if layer in largest]
    biases = [key for key in told if key.rpartition(".")[2] == "bias"]
    return (*shown, *([_layer(_ALL_BIASES, biases, told)] if len(biases) > 1 else []))


def layer_cases(victim: Victim, layers: Sequence[Layer], efforts: Sequence[Effort]) -> list[Case]:
    """Two cases a layer: the image with the labels known that the whole view tells, then the labels.

    All have the same place, so that attacks begin alike and are held against the same floor.
    """
    view = victim.captured.view
    labels = _labels_of(view)
    images = [one for one in efforts if one.attack != LabelInference.name]
    cases = []
    for layer in layers:
        alone = _alone(view, layer.keys)
        cases.append(case_of(victim, images, 0, replace(alone, labels=labels)))
        cases.append(case_of(victim, _labels_effort(efforts), 0, replace(alone, labels=None)))
    return cases


def layer_leaks(layers: Sequence[Layer], trials: Sequence[Trial]) -> tuple[LayerLeak, ...]:
    """What came of the cases of `layer_cases`: the best image of any attack, and the labels."""
    found = []
    for place, layer in enumerate(layers):
        image, labels = trials[2 * place : 2 * place + 2]
        scores = [one.score for one in image.attempts if one.score.best_psnr_db is not None]
        best = max(scores, key=lambda score: score.best_psnr_db or 0.0, default=None)
        told = [one.score.labels_f1 for one in labels.attempts]
        found.append(
            LayerLeak(
                layer.name,
                layer.entries,
                best.best_psnr_db if best else None,
                best.best_gain_db if best else None,
                told[0] if told else None,
            )
        )
    return tuple(found)


def _layer(name: str, keys: Sequence[str], told: Mapping[str, Told]) -> Layer:
    return Layer(name, tuple(keys), sum(told[key].values.size for key in keys))


def _labels_of(view: ServerView) -> Labels | None:
    """The labels as an attacker has them who sees the whole view."""
    if view.labels is None and LabelInference().obstacle(view) is None:
        return infer_labels(view)
    return view.labels


def _labels_effort(efforts: Sequence[Effort]) -> list[Effort]:
    return [one for one in efforts if one.attack == LabelInference.name]


def _alone(view: ServerView, keys: Collection[str]) -> ServerView:
    """The first round of the view with nothing known but these arrays."""
    return replace(view, exchanges=(_only(view.first, keys),), same_rows=True)


def _only(exchange: Exchange, keys: Collection[str]) -> Exchange:
    return replace(
        exchange,
        told={key: one if key in keys else _unknown(one) for key, one in exchange.told.items()},
    )


def _unknown(told: Told) -> Told:
    return replace(told, known=np.zeros(told.values.shape, bool), within=inf)
