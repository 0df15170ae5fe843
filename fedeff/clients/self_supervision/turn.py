"""A self-supervised client's replies: beside a personal model, and on what features are worth."""

import numpy as np
from flwr.app import Message, RecordDict
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.messages import Request
from fedeff.clients.replies import reply_of
from fedeff.clients.self_supervision.personal import (
    PersonalSimSiam,
    keep_personal,
    kept_personal,
    train_beside,
)
from fedeff.clients.self_supervision.representation import representation_score
from fedeff.clients.turn import Turn, train_reply

__all__ = ["personal_reply", "representation_reply"]


def personal_reply(turn: Turn, model: nn.Module, samples: Samples, rng: np.random.Generator) -> Message:
    """The reply of a client that also trains its personal model, which goes to its state alone.

    A client without one begins with the weights of this turn. Raises as `train_reply` does; nothing is
    kept then.
    """
    state, training = turn.context.state, turn.request.training
    own = kept_personal(state, turn.weights)
    trained, own = train_beside(model, turn.weights, own, samples, training, rng, turn.moments)
    reply = train_reply(turn, trained)
    keep_personal(state, own)
    return reply


def representation_reply(
    request: Request, model: nn.Module, state: RecordDict, known: Samples, test: Samples
) -> Message:
    """What the features of the client's own model are worth on its own test rows, as metrics.

    That is the personal model where the client has one, else the received one, whose score a client with
    PersonalSimSiam tells too, as `eval-accuracy-global`. `known` are the rows whose labels may be seen.
    """
    received = representation_score(model, request.arrays, known, test)
    own = received
    personal = isinstance(request.training.objective, PersonalSimSiam)
    if personal:
        own = representation_score(model, kept_personal(state, request.arrays), known, test)
    metrics: dict[str, int | float] = {
        "num-examples": own.examples,
        "partition-id": request.partition,
        "eval-loss": own.probe_loss,
        "eval-accuracy": own.probe_accuracy,
        "eval-knn-accuracy": own.neighbours_accuracy,
    }
    if personal:
        metrics["eval-accuracy-global"] = received.probe_accuracy
    return reply_of(request, None, metrics)
