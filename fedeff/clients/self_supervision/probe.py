"""What features are worth: logistic regression on them, and their neighbours, with few labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedeff.core.errors import ConfigError

__all__ = ["Probe", "fit_probe", "labelled_rows", "neighbours_vote"]

Array = np.ndarray[Any, np.dtype[Any]]
_DECAY = 0.05  # of the probe's weights
_ITERATIONS = 500


@dataclass(frozen=True)
class Probe:
    """A linear classifier of standardised features; float64."""

    weights: torch.Tensor  # (features, classes)
    bias: torch.Tensor  # (classes,)
    centre: torch.Tensor  # (features,)
    scale: torch.Tensor  # (features,)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(n, classes) of features (n, features)."""
        return (features.double() - self.centre) / self.scale @ self.weights + self.bias


def fit_probe(features: torch.Tensor, labels: torch.Tensor, classes: int, *, decay: float = _DECAY) -> Probe:
    """Multinomial logistic regression on features (n, features), which are standardised, and labels (n,).

    The minimum of the mean cross-entropy plus `decay / 2` times the sum of squared weights, the bias's
    left out, as SciPy's L-BFGS finds it; convex, so that it depends on nothing else. Classes without a label
    get little probability, none gets zero.
    """
    centre = features.double().mean(0)
    scale = features.double().std(0, correction=0)
    scale[scale < 1e-8] = 1.0  # a dead feature tells nothing, at any scale
    inputs = (features.double() - centre) / scale
    # Here, not above: SciPy takes a second to load, which every client that is deployed would wait for.
    from scipy.optimize import minimize

    found = minimize(
        lambda flat: _penalised_loss(flat, inputs, labels, decay),
        np.zeros((inputs.shape[1] + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS},
    )
    fitted = torch.from_numpy(found.x.reshape(-1, classes))
    return Probe(fitted[:-1], fitted[-1], centre, scale)


def _penalised_loss(
    flat: Array, inputs: torch.Tensor, labels: torch.Tensor, decay: float
) -> tuple[float, Array]:
    """The loss and its gradient at weights and bias, the last row, laid out flat."""
    weights = torch.from_numpy(flat).view(inputs.shape[1] + 1, -1).requires_grad_()
    logits = inputs @ weights[:-1] + weights[-1]
    loss = F.cross_entropy(logits, labels) + decay / 2 * weights[:-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    return float(loss.detach()), gradient.numpy().ravel()


def neighbours_vote(
    features: torch.Tensor,
    bank: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> torch.Tensor:
    """The classes (n,) that the nearest rows of a bank, by cosine, vote for.

    `features` (n, width) and `bank` (m, width); a neighbour of cosine c counts `exp(c / temperature)`
    (Wu et al., arXiv:1805.01978, section 3.4). All of the bank votes where it is smaller than `neighbours`.
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(bank, dim=1).T
    nearest, rows = cosines.topk(min(neighbours, len(bank)), dim=1)
    votes = features.new_zeros(len(features), classes)
    votes.scatter_add_(1, labels[rows], (nearest / temperature).exp())
    return votes.argmax(1)


def labelled_rows(labels: Array, share: float, rng: np.random.Generator) -> Array:
    """The rows (int64, ascending) that an evaluation sees the labels of: this share of every class.

    At least one row of each class that there is. Raises ConfigError where there are no rows.
    """
    if not len(labels):
        raise ConfigError("no rows to take labels of; evaluate on data that has some")
    chosen = []
    for name in np.unique(labels):
        (rows,) = np.nonzero(labels == name)
        chosen.append(rng.permutation(rows)[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))
