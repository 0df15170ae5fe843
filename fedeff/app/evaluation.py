"""The global model on the server's test rows: accuracy and loss, the same bits on every run."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord
from torch import nn

from fedeff.app.rounds import Score
from fedeff.core.layers import NDArray, decode_record
from fedeff.data import Split

__all__ = ["Evaluation", "Judged", "judged", "score_of"]

Judged = tuple[int, float, int]  # right predictions, summed loss, all predictions

_BATCH = 500
_MOST_PREDICTIONS = 200_000  # a round's evaluation should not cost more than its training
_MOST_WORKERS = 8


class Evaluation:
    """Evaluates records of one model on the rows of one split.

    All rows, or an even sample where these hold more than 200,000 predictions (a text predicts every
    character). Processors share out fixed batches, each on one torch thread, and the sums are taken
    in the batches' order: equal records give equal scores on any number of processors.
    """

    def __init__(self, model: nn.Module, rows: Split, device: str = "cpu") -> None:
        self._device = torch.device(device if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._rows = rows
        step = max(1, -(-int(np.prod(rows.y.shape)) // _MOST_PREDICTIONS))
        self._chosen = np.arange(0, len(rows), step)
        self._images = rows.x.ndim == 4
        if self._images:
            # Convolutions read channels-last memory faster; dense layers do not care.
            self._model = self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, record: ArrayRecord) -> Score:
        """The accuracy in [0, 1] and the mean loss over the evaluated predictions."""
        self.network(record)
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(
                _workers(self._device), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                parts = list(pool.map(self._batch, self.starts))
        finally:
            torch.set_num_threads(threads)
        return score_of(parts)

    @property
    def starts(self) -> range:
        """Where the batches begin."""
        return range(0, len(self._chosen), _BATCH)

    def network(self, record: ArrayRecord) -> nn.Module:
        """The model with a record's weights, in eval mode."""
        # torch wants memory that it may write to; a record's is read-only.
        state = {key: torch.from_numpy(values.copy()) for key, values in decode_record(record).items()}
        self._model.load_state_dict(state)
        return self._model

    def batch(self, start: int) -> tuple[NDArray, NDArray]:
        """The rows of a batch and their labels."""
        return self._rows.batch(self._chosen[start : start + _BATCH])

    @torch.inference_mode()
    def _batch(self, start: int) -> Judged:
        x, y = self.batch(start)
        inputs = torch.from_numpy(x).to(self._device)
        if self._images:
            inputs = inputs.to(memory_format=torch.channels_last)
        return judged(self._model(inputs), torch.from_numpy(y).to(self._device))


def judged(logits: torch.Tensor, labels: torch.Tensor) -> Judged:
    """Right predictions, summed loss and all predictions of one batch."""
    logits, labels = logits.flatten(0, -2), labels.flatten()
    loss = float(F.cross_entropy(logits, labels, reduction="sum"))
    return int((logits.argmax(dim=1) == labels).sum()), loss, len(labels)


def score_of(parts: Sequence[Judged]) -> Score:
    """The accuracy and the mean loss of all batches together."""
    right, loss, count = (sum(part[i] for part in parts) for i in range(3))
    return Score(accuracy=right / count, loss=loss / count)


def _workers(device: torch.device) -> int:
    """One a processor that this process may use; a GPU takes one batch at a time."""
    if device.type != "cpu":
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _MOST_WORKERS)
