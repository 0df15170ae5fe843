"""Inputs sought among the combinations of few known rows, however large an input is."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedeff.audit.attacks.least_squares import Descent, Stopping, descend
from fedeff.audit.finding import Budget
from fedeff.audit.replay.matching import Matching
from fedeff.audit.view import Labels, NDArray, Public, ServerView, Told
from fedeff.models.threads import one_thread

__all__ = ["WIDTHS", "fitted", "in_row_space"]

WIDTHS = (0.1, 0.03, 0.01, 0.003, 0.0)  # of the softplus in place of a ReLU, from smooth to none
_DENSE, _DAMPING = 1024, 1e-2
_ON_THE_WAY = Stopping(30, 1e-20, 0.1)
_AT_THE_END = Stopping(40, 1e-20, 1e-3)


def in_row_space(view: ServerView, weight: str, basis: NDArray) -> ServerView | None:
    """The view as if inputs were their coordinates (count,) in a basis (count, n) with orthonormal rows.

    The gradient of a first dense layer's weights is made of its inputs, so its row space has all of them;
    what came of that layer is seen in these coordinates, and nothing is lost. Units of which an entry is
    not known are not known at all. None where the network does not take inputs of another size.
    """
    first, count = view.first, len(basis)
    matrix, told = np.asarray(first.weights[weight], np.float64), first.told[weight]
    whole = np.asarray(told.mask.all(axis=1)).reshape(-1)
    values = np.where(whole[:, None], told.values, 0.0) @ basis.T
    known = np.broadcast_to(whole[:, None], values.shape).copy()
    # Orthonormal rows leave the size of independent errors as it is.
    narrow = Told(values, known, float(np.sqrt(np.mean(np.square(told.std)))))
    exchange = replace(
        first, weights={**first.weights, weight: matrix @ basis.T}, told={**first.told, weight: narrow}
    )

    def network() -> nn.Module:
        module = view.public.network()
        layer = module.get_submodule(weight.rpartition(".")[0])
        assert isinstance(layer, nn.Linear)
        layer.weight, layer.in_features = nn.Parameter(layer.weight.new_zeros(len(matrix), count)), count
        return module

    try:
        with torch.no_grad():
            network()(torch.zeros(1, count))
    except RuntimeError:  # a shape that is written into the network's code
        return None
    public = Public(network, "classify", view.public.classes, (count,))
    return ServerView(public, (exchange,), view.labels, view.same_rows)


def fitted(
    narrow: ServerView, coordinates: NDArray, labels: Labels, budget: Budget, widths: Sequence[float] = (0.0,)
) -> tuple[NDArray, float]:
    """Coordinates (n, count) that fit the exchange of a narrow view best near the given ones, and the loss.

    Levenberg-Marquardt on the residual, each layer over its norm, at each of these widths of smoothing.
    """
    at = Descent(torch.from_numpy(coordinates), damping=_DAMPING)
    y = torch.from_numpy(np.asarray(labels))
    with one_thread():
        for width in widths:
            rule = _AT_THE_END if width == widths[-1] else _ON_THE_WAY
            at = replace(at, damping=max(at.damping, _DAMPING / 10))
            at = descend(Matching(narrow, smoothing=width), at, y, budget, rule, dense=_DENSE)
    return at.x.numpy(), at.loss
