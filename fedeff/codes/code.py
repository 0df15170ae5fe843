"""What every code is: inputs become tasks for workers, and the answers of some of them give all answers."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedeff.core.errors import CodeError

__all__ = [
    "Code",
    "CodesGroups",
    "Decoded",
    "check_inputs",
    "check_outputs",
    "decode_groups",
    "encode_groups",
]

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The answers to a group's `k` inputs, and how far each can be trusted.

    Quality is 1 for a worker's own answer and for what is exact up to rounding; for an estimate it is the
    share of samples, of those on which the code was measured, whose estimated answer was that of the
    function; not a number where the code was never measured.
    """

    values: NDArray  # (k, ...), in the order of the inputs
    quality: NDArray  # (k,), float64


class Code(Protocol):
    """Turns `k` inputs into tasks for `n = k + r` workers, and the answers that came into `k` answers.

    Workers `0..k-1` hold originals and `k..n-1` parities where the code is systematic; of one that is not,
    every worker holds a coded input. A value: nothing changes after it was built, and what it does with
    equal arguments is equal.
    """

    @property
    def k(self) -> int:
        """Inputs of a group."""
        ...

    @property
    def r(self) -> int:
        """Tasks beyond the inputs."""
        ...

    @property
    def systematic(self) -> bool:
        """Whether the first `k` workers get the inputs as they are."""
        ...

    def encode(self, inputs: NDArray) -> NDArray:
        """From `(k, ...)` the parities, `(r, ...)`; all tasks, `(k + r, ...)`, of one that is not systematic.

        Raises:
            CodeError: if these are not `k` inputs.
        """
        ...

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The answers to the inputs, from `(k + r, ...)` outputs of which those with `mask` true came.

        What the others hold is never read.

        Raises:
            CodeError: if the shapes are wrong, or this pattern cannot be decoded.
        """
        ...

    def decodable(self, mask: NDArray) -> bool:
        """Whether `decode` gives an answer to every input from what came, `(k + r,)` booleans."""
        ...


@runtime_checkable
class CodesGroups(Protocol):
    """A code that is faster with many groups at once: each gets what `encode` and `decode` give it alone.

    Up to rounding, where an array of one shape is summed in another order than that of another.
    """

    def encode_groups(self, inputs: NDArray) -> NDArray:
        """From `(groups, k, ...)` all parities, `(groups, r, ...)`. Raises CodeError as `encode` does."""
        ...

    def decode_groups(self, outputs: NDArray, mask: NDArray) -> NDArray:
        """The answers `(groups, k, ...)`, the same workers missing in all. Raises CodeError as `decode`."""
        ...


def encode_groups(code: Code, inputs: NDArray) -> NDArray:
    """The tasks of `(groups, k, ...)` inputs, group by group or all at once, as the code can."""
    if isinstance(code, CodesGroups):
        return code.encode_groups(inputs)
    return np.stack([code.encode(group) for group in inputs])


def decode_groups(code: Code, outputs: NDArray, mask: NDArray) -> NDArray:
    """The answers `(groups, k, ...)` from `(groups, n, ...)` outputs, the same workers missing in all."""
    if isinstance(code, CodesGroups):
        return code.decode_groups(outputs, mask)
    return np.stack([code.decode(group, mask).values for group in outputs])


def check_inputs(code: Code, inputs: NDArray) -> None:
    """Raises a `CodeError` unless these are the `k` inputs of a group."""
    if inputs.ndim < 1 or len(inputs) != code.k:
        raise CodeError(f"inputs {inputs.shape}, expected ({code.k}, ...): a group of this code is {code.k}")


def check_outputs(code: Code, outputs: NDArray, mask: NDArray) -> None:
    """Raises a `CodeError` unless each worker has an output's place and the pattern can be decoded."""
    n = code.k + code.r
    if outputs.ndim < 1 or len(outputs) != n:
        raise CodeError(f"outputs {outputs.shape}, expected ({n}, ...): one for each worker")
    if mask.shape != (n,) or mask.dtype != np.bool_:
        raise CodeError(
            f"mask {mask.shape} of {mask.dtype}, expected ({n},) booleans: true where an output came"
        )
    if not code.decodable(mask):
        missing = ", ".join(map(str, np.flatnonzero(~mask)))
        raise CodeError(f"cannot decode without the outputs of workers {missing}; wait for more of them")
