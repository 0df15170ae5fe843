"""A network's forward pass as a function that can be differentiated twice, in both modes and under vmap."""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

__all__ = ["first_embedding", "forward"]

_RECTIFIERS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


_POOLINGS = frozenset({F.max_pool2d, torch.max_pool2d})


class _OutOfPlace(TorchFunctionMode):
    """Calls that write into their input, which transforms of functions refuse, as calls that do not.

    With `smoothing` s rectifiers become softplus of that width, `s log(1 + exp(x / s))`, and pooling by
    the largest `s log sum exp(x / s)`, so that every input has some part in what comes out.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self._smoothing = smoothing

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _RECTIFIERS:
            return self._rectified(args[0] if args else named["input"])
        if self._smoothing and func in _POOLINGS and (windows := _windows(*args, **named)) is not None:
            return self._smoothing * torch.logsumexp(windows / self._smoothing, 0)
        if func is F.batch_norm:
            return _batch_norm(*args, **named)
        if named.get("inplace"):
            named["inplace"] = False
        return func(*args, **named)

    def _rectified(self, x: Tensor) -> Tensor:
        return F.softplus(x, beta=1 / self._smoothing) if self._smoothing else torch.relu(x)


def _windows(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """What F.max_pool2d takes the largest of, (kernel, ..., height, width); None of unusual windows."""
    if padding not in (0, (0, 0)) or dilation not in (1, (1, 1)) or ceil_mode or return_indices:
        return None
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    step = (stride, stride) if isinstance(stride, int) else tuple(stride or kernel)
    ends = [size - length + 1 for size, length in zip(input.shape[-2:], kernel, strict=True)]
    # Slices, not Tensor.unfold, whose derivative has no rule under vmap.
    places = itertools.product(range(kernel[0]), range(kernel[1]))
    return torch.stack([input[..., i : ends[0] + i : step[0], j : ends[1] + j : step[1]] for i, j in places])


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What F.batch_norm gives, but running statistics stay as they are."""
    across = [0, *range(2, x.dim())]
    if training or running_mean is None or running_var is None:
        variance, mean = torch.var_mean(x, across, correction=0)
    else:
        variance, mean = running_var, running_mean
    shape = (1, -1, *[1] * (x.dim() - 2))
    normal = (x - mean.view(shape)) * torch.rsqrt(variance.view(shape) + eps)
    scaled = normal if weight is None else normal * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def first_embedding(network: nn.Module) -> tuple[str, nn.Embedding] | None:
    """The key of the weight of the network's first nn.Embedding, and the module; None without one."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            return f"{name}.weight" if name else "weight", module
    return None


def forward(network: nn.Module, weights: Mapping[str, Tensor], x: Tensor, smoothing: float = 0.0) -> Tensor:
    """The network's output by these weights (of its parameters, by key), which stays differentiable.

    Where the network has an nn.Embedding and `x` is floating point, (n, length, width), `x` is taken for
    what the first of them gives, and its weight has no part.
    """
    with contextlib.ExitStack() as stack:
        embedding = first_embedding(network)
        if embedding is not None and x.is_floating_point():
            # The tokens only tell the shape: what the embedding makes of them is put aside.
            tokens = torch.zeros(x.shape[:2], dtype=torch.int64)
            hook = embedding[1].register_forward_hook(lambda module, given, made, instead=x: instead)
            stack.callback(hook.remove)
            x = tokens
        stack.enter_context(_OutOfPlace(smoothing))
        output: Tensor = functional_call(network, dict(weights), (x,))
        return output
