"""The replies of a client, as Flower messages."""

from flwr.app import ArrayRecord, Message

from fedeff.clients.evaluation import Score
from fedeff.clients.messages import Request
from fedeff.clients.training import Trained
from fedeff.core.errors import ReplyError
from fedeff.core.flower import reply_content

__all__ = ["curvature_reply", "diverged", "evaluate_reply", "need_full_reply", "reply_of", "train_metrics"]


def reply_of(request: Request, arrays: ArrayRecord | None, metrics: dict[str, int | float]) -> Message:
    """The reply to a request; without `arrays` it has metrics alone."""
    return Message(reply_content(arrays, metrics), reply_to=request.message)


def train_metrics(request: Request, trained: Trained) -> dict[str, int | float]:
    """How training went. Raises ReplyError where it diverged."""
    if not abs(trained.loss) < float("inf"):
        raise diverged(request, trained.loss)
    return {
        "num-examples": trained.examples,
        "num-steps": trained.steps,
        "partition-id": request.partition,
        "train-loss": trained.loss,
        **trained.measures,
    }


def diverged(request: Request, loss: float) -> ReplyError:
    """The error of a client whose loss, or its gradient, is no longer finite."""
    return ReplyError(
        f"client {request.partition} diverged in round {request.server_round}: its training loss is "
        f"{loss}; lower the learning rate ({request.training.learning_rate})"
    )


def need_full_reply(request: Request) -> Message:
    """Asks for the whole model: what the client kept does not fit the request."""
    return reply_of(request, None, {"num-examples": 0, "need-full": 1, "partition-id": request.partition})


def curvature_reply(request: Request, eigenvalue: float, examples: int) -> Message:
    """The largest eigenvalue of the loss's Hessian. Raises ReplyError where it is not finite."""
    if not abs(eigenvalue) < float("inf"):
        raise ReplyError(
            f"client {request.partition} found no curvature in round {request.server_round}: the largest "
            f"eigenvalue is {eigenvalue}; the model has diverged, so go back to an earlier one"
        )
    metrics: dict[str, int | float] = {
        "num-examples": examples,
        "partition-id": request.partition,
        "hessian-lambda-max": eigenvalue,
    }
    return reply_of(request, None, metrics)


def evaluate_reply(request: Request, score: Score) -> Message:
    """The score as metrics."""
    metrics: dict[str, int | float] = {
        "num-examples": score.examples,
        "partition-id": request.partition,
        "eval-loss": score.loss,
        "eval-accuracy": score.accuracy,
    }
    return reply_of(request, None, metrics)
