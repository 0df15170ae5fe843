"""A function as codes see it: frozen while a code is fitted to it, known by the digest of its weights."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedeff.core.errors import CodeError

__all__ = ["answers_of", "frozen", "function_digest", "multiply_adds"]

_CHUNK = 512  # samples of one forward pass: the activations of a small CNN stay in the cache


@contextmanager
def frozen(function: nn.Module) -> Iterator[nn.Module]:
    """The function in eval mode with no parameter to train; afterwards each is as it was before."""
    modes = [(module, module.training) for module in function.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in function.parameters()]
    try:
        function.eval().requires_grad_(False)
        yield function
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def answers_of(function: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the function says of `(n, ...)` inputs, in chunks.

    Raises:
        CodeError: unless that is one float array for each input.
    """
    chunks = torch.split(inputs, _CHUNK)
    answers = [function(chunk) for chunk in chunks]
    for answer, chunk in zip(answers, chunks, strict=True):
        if not isinstance(answer, torch.Tensor) or not answer.is_floating_point():
            raise CodeError(f"the function answers {type(answer).__name__}, expected a tensor of floats")
        if answer.ndim < 2 or len(answer) != len(chunk):
            raise CodeError(
                f"the function answers {tuple(answer.shape)} to {len(chunk)} inputs, expected a row each"
            )
    return torch.cat(answers)


def function_digest(function: nn.Module) -> str:
    """The sha256 of the names, shapes, dtypes and values of its state, in hexadecimal."""
    digest = hashlib.sha256()
    for name, values in sorted(function.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def multiply_adds(function: nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-adds of one input, of the products and convolutions that torch counts."""
    with FlopCounterMode(display=False) as counter:
        function(inputs[:1])
    return int(counter.get_total_flops()) // 2
