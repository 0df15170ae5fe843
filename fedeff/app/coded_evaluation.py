"""The global model on the server's test rows, answered by a pool of actors under a code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedeff.app.evaluation import Evaluation, judged, score_of
from fedeff.app.objectives import evaluation_of
from fedeff.app.rounds import Score
from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of
from fedeff.codes.code import Code
from fedeff.codes.spec import code_of
from fedeff.data import Split
from fedeff.simulation.coded_inference import CodedInference

__all__ = ["CodedEvaluation", "evaluating"]


@contextmanager
def evaluating(settings: Settings) -> Iterator[Callable[[nn.Module, ArrayRecord], Score]]:
    """How the server scores records of a model on the test rows, for the length of a run."""
    dataset = dataset_of(settings)
    if not settings.coded_eval:
        yield lambda model, record: evaluation_of(settings, model, dataset)(record)
        return
    coded = CodedEvaluation(code_of(settings.coded_eval))
    try:
        yield lambda model, record: coded.score(model, dataset.test, record)
    finally:
        coded.close()


class CodedEvaluation:
    """Scores records of a run's models as `Evaluation` does, by actors that live as long as the run.

    What is asked of the actors are batches of rows. Where a code's answers are estimates, so is the score;
    `coded-reconstructed` tells the share of rows whose answers the code gave in place of their actor.
    """

    def __init__(self, code: Code) -> None:
        self.inference = CodedInference(code)

    def score(self, model: nn.Module, rows: Split, record: ArrayRecord) -> Score:
        """The accuracy in [0, 1] and the mean loss over the evaluated predictions."""
        evaluation = Evaluation(model, rows)
        batches = [evaluation.batch(start) for start in evaluation.starts]
        answers = list(self.inference.answers(evaluation.network(record), [x for x, _ in batches]))
        parts = [
            judged(torch.from_numpy(np.array(answer.value)), torch.from_numpy(y))
            for answer, (_, y) in zip(answers, batches, strict=True)
        ]
        estimated = sum(
            len(y) for answer, (_, y) in zip(answers, batches, strict=True) if answer.reconstructed
        )
        share = estimated / sum(len(y) for _, y in batches)
        return replace(score_of(parts), measures={"coded-reconstructed": share})

    def close(self) -> None:
        """End the actors."""
        self.inference.close()
