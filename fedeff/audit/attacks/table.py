"""Attacks by name: what an audit may ask for."""

from collections.abc import Callable
from dataclasses import dataclass

from fedeff.audit.attacks.dager import Dager
from fedeff.audit.attacks.dlg import DeepLeakage
from fedeff.audit.attacks.embedding_rows import EmbeddingRows
from fedeff.audit.attacks.imprint import Imprint
from fedeff.audit.attacks.inverting_gradients import InvertingGradients
from fedeff.audit.attacks.labels import LabelInference
from fedeff.audit.attacks.levenberg_marquardt import LevenbergMarquardt
from fedeff.audit.attacks.phong import Phong
from fedeff.audit.attacks.r_gap import RGap
from fedeff.audit.attacks.spear import Spear
from fedeff.audit.attacks.tag import Tag
from fedeff.audit.finding import Attack
from fedeff.core.errors import unknown_name

__all__ = ["attack_names", "attack_of", "attack_summary"]


@dataclass(frozen=True)
class _Entry:
    make: Callable[[], Attack]
    summary: str  # one line: what it rebuilds, and when


_TABLE: dict[str, _Entry] = {
    "labels": _Entry(LabelInference, "labels of a batch from the last layer's gradient"),
    "phong": _Entry(Phong, "inputs by division, of networks that begin with a dense layer with a bias"),
    "levenberg-marquardt": _Entry(
        LevenbergMarquardt, "inputs by damped Gauss-Newton steps, of small models and small batches"
    ),
    "dlg": _Entry(DeepLeakage, "inputs by L-BFGS on the difference of gradients"),
    "inverting-gradients": _Entry(
        InvertingGradients, "images by the direction of the gradient and little variation"
    ),
    "r-gap": _Entry(RGap, "one input by linear solves, last layer to first; chains of layers, also pooled"),
    "spear": _Entry(Spear, "whole batches, exactly, from a first dense layer with a ReLU"),
    "imprint": _Entry(
        Imprint, "inputs that a malicious server's imprint layer separated, also of summed clients"
    ),
    "embedding-rows": _Entry(EmbeddingRows, "which tokens occurred, from the embedding's rows that moved"),
    "dager": _Entry(Dager, "whole texts, exactly, from the span of what layers read; small batches"),
    "tag": _Entry(Tag, "texts by descent on embeddings; a few short ones, whatever is masked"),
}


def attack_names() -> tuple[str, ...]:
    """The names that `attack_of` knows, in the order of the table."""
    return tuple(_TABLE)


def attack_of(name: str) -> Attack:
    """The attack of this name with its usual options. Raises ConfigError for an unknown name."""
    return _entry(name).make()


def attack_summary(name: str) -> str:
    """One line on what the attack rebuilds. Raises ConfigError for an unknown name."""
    return _entry(name).summary


def _entry(name: str) -> _Entry:
    if name not in _TABLE:
        raise unknown_name("attack", name, _TABLE)
    return _TABLE[name]
