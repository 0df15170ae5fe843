"""The vectorised block: many clients of one model trained side by side, each on its own samples.

The weights of all clients are stacked; `torch.func.vmap` turns the model's forward pass into one
over the stack, and one backward pass of the summed losses gives every client its own gradient.
Clients may differ in samples and steps: short batches are padded with samples of weight 0, and
clients are sorted by their number of steps, so that those still at work are a prefix of the stack.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedeff.clients.data import Samples
from fedeff.clients.loop import has_dropout
from fedeff.clients.optimisers import Optimiser
from fedeff.clients.training import Array, LocalTraining, Moments, Trained, batches
from fedeff.clients.weights import check_fit
from fedeff.core.errors import ConfigError

__all__ = ["obstacle_to_vectorising", "train_block", "vectorising_pays"]

# A step costs the same calls however small the stack; far beyond the caches a larger one saves nothing.
_STACK_BYTES = 16 << 20
_WINDOW_BYTES = 32 << 20  # of samples gathered at a time
# Layers for which oneDNN has kernels that the loop can use and a stack of weights cannot.
_FAST_ALONE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.LSTM,
)


def train_block(
    model: nn.Module,
    arrays: Sequence[Mapping[str, Array]],
    samples: Sequence[Samples],
    training: LocalTraining,
    rngs: Sequence[np.random.Generator],
    moments: Sequence[Moments | None] | None = None,
) -> list[Trained]:
    """What `train_loop` gives for each client in turn, to 1e-5, computed for all of them at once.

    `model` lends its forward pass; its own weights are neither read nor written. Not for models
    with dropout, buffers or data-dependent control flow, nor for all that LocalTraining can ask (see
    `obstacle_to_vectorising`); slower than the loop where `vectorising_pays` is false. Raises
    ConfigError for such models and training, for arrays that do not fit the model, and for a client
    without samples.
    """
    if obstacle := obstacle_to_vectorising(model, training):
        raise ConfigError(
            f"this model cannot be trained in vectorised blocks: {obstacle}; use the plain loop"
        )
    state = model.state_dict()
    for received in arrays:
        check_fit(state, received)
    plans = [list(batches(len(own), training, rng)) for own, rng in zip(samples, rngs, strict=True)]
    order = sorted(range(len(plans)), key=lambda client: -len(plans[client]))
    size = max(1, _STACK_BYTES // max(1, sum(p.nbytes for p in model.parameters())))
    results: dict[int, Trained] = {}
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        chunk = _Chunk(
            [arrays[c] for c in chosen],
            [samples[c] for c in chosen],
            [plans[c] for c in chosen],
            [moments[c] for c in chosen] if moments else [None] * len(chosen),
        )
        results.update(zip(chosen, chunk.train(model, training), strict=True))
    return [results[client] for client in range(len(plans))]


def obstacle_to_vectorising(model: nn.Module, training: LocalTraining) -> str | None:
    """Why this model or training goes by the plain loop alone, or None."""
    if obstacle := _obstacle_of_training(training):
        return obstacle
    if has_dropout(model):
        return "it has dropout"
    travelling = model.state_dict().keys()  # others stay as they are, such as frozen weights
    if any(key not in travelling for key, _ in model.named_parameters()):
        return "it has parameters that stay with each client"
    if any(key in travelling for key, _ in model.named_buffers()):
        return "it has buffers (such as the running statistics of BatchNorm; GroupNorm has none)"
    return None


def _obstacle_of_training(training: LocalTraining) -> str | None:
    if training.autocast:
        return "autocast is on"
    if training.penalty is not None:
        return "it has a penalty, which sees one client's weights at a time"
    if training.dp_sgd is not None:
        return "DP-SGD clips the gradient of each row"
    if training.objective is not None:
        return "it has an objective, whose random views are drawn for each client"
    if training.optimizer == "slim-qn":
        return "optimizer slim-qn has a curvature for each client"
    if training.perturbation != "none":
        return f"perturbation {training.perturbation} draws noise for each client"
    return None


def vectorising_pays(model: nn.Module, device: str) -> bool:
    """Whether blocks are faster than the loop, by the kind of layers alone.

    On a CPU convolutions and LSTMs do not gain: vectorised they become grouped convolutions and
    unrolled steps, and lose oneDNN's kernels for them. Nothing is timed, so every engine chooses alike.
    """
    if torch.device(device).type != "cpu":
        return True
    return not any(isinstance(module, _FAST_ALONE) for module in model.modules())


@dataclass(frozen=True)
class _Chunk:
    """Clients that are stacked together, those with more steps first."""

    arrays: Sequence[Mapping[str, Array]]
    samples: Sequence[Samples]
    plans: Sequence[Sequence[Array]]  # the row numbers of each step
    moments: Sequence[Moments | None]  # where each optimiser goes on; None neither goes on nor is kept

    def train(self, model: nn.Module, training: LocalTraining) -> list[Trained]:
        device = self.samples[0].y.device
        state = dict(model.named_parameters())
        stack = {key: self._stacked(key, parameter).to(device) for key, parameter in state.items()}
        trained = [key for key, parameter in state.items() if parameter.requires_grad]
        forward = torch.func.vmap(lambda weights, x: torch.func.functional_call(model, weights, (x,)))
        optimiser = Optimiser(training, trained, [stack[key] for key in trained], len(self.plans))
        for client, kept in enumerate(self.moments):
            if kept is not None:
                optimiser.resume(kept, client)
        totals = torch.zeros(len(self.plans), device=device)
        model.train()
        active, leaves = -1, {}
        for step in self._steps():
            if active != (active := len(step.weights)):
                optimiser.narrow(active)
                leaves = {key: stack[key][:active].requires_grad_(key in trained) for key in stack}
            losses = step.losses(forward(leaves, step.x))
            own = [leaves[key] for key in trained]
            optimiser.step(own, torch.autograd.grad(losses.sum(), own))
            totals[:active] += losses.detach() * step.counts
        after = [
            None if kept is None else optimiser.gathered(len(plan), client)
            for client, (kept, plan) in enumerate(zip(self.moments, self.plans, strict=True))
        ]
        return self._results(stack, totals, after)

    def _stacked(self, key: str, parameter: torch.Tensor) -> torch.Tensor:
        rows = torch.empty(len(self.arrays), *parameter.shape, dtype=parameter.dtype)
        view = rows.numpy()
        for row, received in zip(view, self.arrays, strict=True):
            row[...] = received[key]
        return rows

    def _steps(self) -> "Iterator[_Step]":
        """Every step's samples: (active clients, longest batch, ...) with the weight of each sample."""
        rows, counts = _padded(self.plans)
        for begin, end in self._windows(*rows.shape):
            present = int(np.count_nonzero(counts[:, begin]))
            x, y = _gathered(self.samples[:present], rows[:present, begin:end])
            for step in range(begin, end):
                taken = counts[:, step]
                active, width = int(np.count_nonzero(taken)), int(taken.max())
                yield _Step.of(
                    x[:active, step - begin, :width], y[:active, step - begin, :width], taken[:active]
                )

    def _windows(self, clients: int, steps: int, width: int) -> Iterator[tuple[int, int]]:
        sample_bytes = self.samples[0].x[:1].nbytes
        size = max(1, _WINDOW_BYTES // max(1, clients * width * sample_bytes))
        return ((begin, min(begin + size, steps)) for begin in range(0, steps, size))

    def _results(
        self, stack: Mapping[str, torch.Tensor], totals: torch.Tensor, moments: Sequence[Moments | None]
    ) -> list[Trained]:
        values = {key: weights.detach().cpu().numpy() for key, weights in stack.items()}
        seen = [sum(map(len, plan)) for plan in self.plans]
        return [
            Trained(
                {key: stacked[i] for key, stacked in values.items()},
                len(plan),
                total / count,
                len(own),
                after,
            )
            for i, (plan, own, total, count, after) in enumerate(
                zip(self.plans, self.samples, totals.tolist(), seen, moments, strict=True)
            )
        ]


@dataclass(frozen=True)
class _Step:
    """One batch of each active client: x and y (clients, width, ...), padded at the end of a row."""

    x: torch.Tensor
    y: torch.Tensor
    weights: torch.Tensor  # (clients, width): 1 / batch size, 0 for padding
    counts: torch.Tensor  # (clients,): batch sizes

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, taken: Array) -> "_Step":
        counts = torch.from_numpy(taken.astype(np.float32)).to(y.device)
        inside = torch.arange(y.shape[1], device=y.device) < counts[:, None]
        return cls(x, y, inside / counts[:, None], counts)

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Each client's mean cross-entropy (clients,) from logits (clients, width, ..., classes)."""
        each = F.cross_entropy(logits.flatten(0, -2), self.y.flatten(), reduction="none")
        return (each.view(*self.y.shape[:2], -1).mean(2) * self.weights).sum(1)


def _padded(plans: Sequence[Sequence[Array]]) -> tuple[Array, Array]:
    """Row numbers (clients, steps, longest batch), padded with 0, and batch sizes (clients, steps)."""
    width = max(len(batch) for plan in plans for batch in plan)
    rows = np.zeros((len(plans), len(plans[0]), width), np.int64)
    counts = np.zeros(rows.shape[:2], np.int64)
    for client, plan in enumerate(plans):
        for step, batch in enumerate(plan):
            rows[client, step, : len(batch)] = batch
            counts[client, step] = len(batch)
    return rows, counts


def _gathered(samples: Sequence[Samples], rows: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels (clients, steps, width, ...) of the rows (clients, steps, width)."""
    index = torch.from_numpy(rows.reshape(len(rows), -1)).to(samples[0].y.device)
    x = samples[0].x.new_empty(*index.shape, *samples[0].x.shape[1:])
    y = samples[0].y.new_empty(*index.shape, *samples[0].y.shape[1:])
    for client, own in enumerate(samples):
        torch.index_select(own.x, 0, index[client], out=x[client])
        torch.index_select(own.y, 0, index[client], out=y[client])
    return x.view(*rows.shape, *x.shape[2:]), y.view(*rows.shape, *y.shape[2:])
