"""What clients minimise, as the settings ask for it, and how a model without labels is evaluated."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedeff.app.evaluation import Evaluation
from fedeff.app.rounds import Score
from fedeff.app.settings import Settings
from fedeff.clients.data import Samples, prepared
from fedeff.clients.self_supervision import (
    PersonalSimSiam,
    SimSiam,
    SimSiamNetwork,
    labelled_rows,
    representation_score,
)
from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record
from fedeff.core.records import RoundRecord
from fedeff.core.rng import generator
from fedeff.data import Dataset, Split

__all__ = ["CollapseWatch", "ProbeEvaluation", "evaluation_of", "network_of", "objective_of"]

_log = logging.getLogger(__name__)
_COLLAPSED = 0.25  # of the spread that embeddings have which point everywhere


def objective_of(settings: Settings) -> SimSiam | None:
    """The clients' objective; None for the cross-entropy of labels.

    Raises:
        ConfigError: for settings that it does not go with.
    """
    if settings.objective == "supervised":
        return None
    _check(settings)
    if settings.objective == "simsiam":
        return SimSiam(probe_labels=settings.probe_labels)
    return PersonalSimSiam(probe_labels=settings.probe_labels, weight=settings.personal_weight)


def network_of(settings: Settings, model: nn.Module) -> nn.Module:
    """What the objective trains, made of the model of the settings; the model itself for labels."""
    if settings.objective == "supervised":
        return model
    return SimSiamNetwork(model, settings.projection_width, settings.seed)


def evaluation_of(settings: Settings, model: nn.Module, dataset: Dataset) -> "Callable[[ArrayRecord], Score]":
    """How the server scores records of such a model on the test rows."""
    if settings.objective == "supervised":
        return Evaluation(model, dataset.test, settings.device)
    rng = generator(settings.seed, purpose="labelled rows")
    rows = labelled_rows(dataset.labels, settings.probe_labels, rng)
    return ProbeEvaluation(model, _samples(dataset.train, rows), _samples(dataset.test))


@dataclass(frozen=True)
class ProbeEvaluation:
    """Scores what a network without labels makes of images: a linear probe, and `knn-accuracy`.

    Both learn from the rows of `known` alone. On one torch thread: the same record, the same score.
    """

    network: nn.Module
    known: Samples
    test: Samples

    def __call__(self, record: ArrayRecord) -> Score:
        """The probe's accuracy in [0, 1] and its mean loss on the test rows."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            score = representation_score(self.network, decode_record(record), self.known, self.test)
        finally:
            torch.set_num_threads(threads)
        return Score(score.probe_accuracy, score.probe_loss, {"knn-accuracy": score.neighbours_accuracy})


class CollapseWatch:
    """Passes records on and warns once where clients' embeddings have fallen together."""

    def __init__(self, on_round: Callable[[RoundRecord], None], settings: Settings) -> None:
        self._on_round, self._warned = on_round, False
        self._healthy = 1 / math.sqrt(settings.projection_width)

    def __call__(self, record: RoundRecord) -> None:
        """Take a round's record."""
        spread = record.train_metrics.get("embedding-std", math.nan)
        if not self._warned and spread < _COLLAPSED * self._healthy:
            _log.warning(
                "round %d: embeddings have collapsed, their spread is %.2g where %.2g is healthy; lower the "
                "learning rate, or give larger batches",
                *(record.server_round, spread, self._healthy),
            )
            self._warned = True
        self._on_round(record)


def _check(settings: Settings) -> None:
    name = f"objective = {settings.objective!r}"
    if settings.dataset == "shakespeare":
        raise ConfigError(f"{name} learns from views of images, and dataset = 'shakespeare' is text")
    if settings.sparsity != "none":
        raise ConfigError(
            f"{name} with sparsity = {settings.sparsity!r}: only a model of labels is made smaller"
        )
    if settings.strategy == "two-phase":
        raise ConfigError(
            f"{name} with strategy = 'two-phase', which measures the curvature of the loss of labels; use "
            "another strategy"
        )
    if settings.objective == "per-ssfl" and not settings.clients_step:
        raise ConfigError(
            f"{name} with strategy = {settings.strategy!r}, whose clients take no steps that a personal "
            "model could follow; use another strategy, or objective=simsiam"
        )


def _samples(split: Split, rows: "np.ndarray[tuple[int], np.dtype[np.int64]] | None" = None) -> Samples:
    return prepared(*split.batch(slice(None) if rows is None else rows), "cpu")
