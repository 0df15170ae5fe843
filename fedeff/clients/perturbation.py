"""SmoothOut and AdaSmoothOut: gradients taken at weights with noise on them, which avoids sharp minima.

Wen, "Efficient and scalable deep learning" (Duke 2019), chapter 5: the gradient at `w + theta` is an
unbiased one of the loss averaged over the noise (eq. 5.8), in which sharp minima are filled and flat
ones stay. It moves `w`, not `w + theta`: with the noise left in, training is much worse (table 5.3).
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from fedeff.clients.data import Samples
from fedeff.clients.training import LocalTraining

__all__ = ["Noise", "measure_statistics"]

_BATCH = 256  # samples whose statistics are measured at a time, about


class Noise:
    """The perturbation that a training asks for, drawn anew at each step from a stream of `rng`.

    The stream is a child of `rng`: batches are those of the same training without noise.
    "smooth-out" draws each weight's noise from U(-radius, radius) (algorithm 2). "ada-smooth-out"
    scales that of each group, so that its norm is `radius` times the norm of the group's weights (eq.
    5.12): a group is what one filter or neuron reads, a row of the first dimension, or a whole vector
    (biases, a norm's scales). Of a transposed convolution, whose first dimension is its input, it is
    what one input feeds.
    """

    def __init__(self, training: LocalTraining, rng: np.random.Generator) -> None:
        self._kind, self._radius = training.perturbation, training.noise_radius
        self._generator = torch.Generator(training.device)
        if self._kind != "none":
            self._generator.manual_seed(int(rng.spawn(1)[0].integers(2**63)))

    @contextlib.contextmanager
    def on(self, parameters: Sequence[torch.Tensor]) -> Iterator[None]:
        """Within the block the parameters carry noise; after it they are what they were, bit for bit."""
        if self._kind == "none":
            yield
            return
        # Kept rather than computed: `w + theta - theta` is rounded twice, and where `theta` is much
        # larger than `w` little of `w` is left.
        noisy, clean = list(parameters), [parameter.detach().clone() for parameter in parameters]
        try:
            with torch.no_grad():
                torch._foreach_add_(noisy, [self._drawn(parameter) for parameter in parameters])
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(noisy, clean)

    def _drawn(self, weights: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(weights, memory_format=torch.contiguous_format)
        noise.uniform_(-self._radius, self._radius, generator=self._generator)
        return scaled(noise, weights, self._radius) if self._kind == "ada-smooth-out" else noise


def scaled(noise: torch.Tensor, weights: torch.Tensor, radius: float) -> torch.Tensor:
    """The noise with each group's norm `radius` times that of the group's weights (eq. 5.12)."""
    rows = noise.reshape(len(noise), -1) if noise.dim() > 1 else noise.reshape(1, -1)
    norms: torch.Tensor = torch.linalg.vector_norm(weights.reshape(rows.shape), dim=1, keepdim=True)
    lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # A noise of zeros, which one weight alone may draw, stays what it is.
    factors: torch.Tensor = radius * norms / torch.where(lengths > 0, lengths, 1)
    return (rows * factors).reshape(noise.shape)


def measure_statistics(model: nn.Module, samples: Samples) -> None:
    """Set the running statistics of the model's BatchNorm layers to those of the samples at its weights.

    Those gathered while training are of weights with noise on them. The mean over batches of equal
    size, as torch's `update_bn` takes it. Draws dropout, if any, from torch's global generator. Does
    nothing to a model without running statistics.
    """
    if any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()):
        with torch.no_grad():
            update_bn(torch.tensor_split(samples.x, -(-len(samples) // _BATCH)), model)
