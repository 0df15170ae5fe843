"""Items and answers as arrays a code can compute on, and which items may share a group."""

import sys
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedeff.codes.code import NDArray
from fedeff.core.errors import CodeError

__all__ = ["Call", "as_array", "is_finite", "kind", "like", "stacked"]

Call = Callable[[Any, Any], Any]  # (actor, value) -> ObjectRef, as of ray.util.ActorPool


def as_array(value: object, what: str) -> NDArray:
    """The value as an array of numbers, without a copy where it is one.

    Raises:
        CodeError: if it is none; `what` names it in the message.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise CodeError(f"{what} is no array ({error}); a code computes on arrays of numbers") from error
    if array.dtype.kind not in "biuf":
        raise CodeError(
            f"{what} is a {type(value).__name__}; expected numbers: a code computes on arrays of one shape"
        )
    return array


def is_finite(array: NDArray) -> bool:
    """Whether there is no NaN and no infinity in it."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def stacked(arrays: list[NDArray], whole_numbers: bool) -> NDArray:
    """One array of all, `(len(arrays), ...)`: of floats, unless the code computes in `whole_numbers`.

    Sums of images in bytes would overflow: what has 8 or 16 bits becomes float32.
    """
    dtype = np.result_type(*arrays)
    return np.stack(arrays).astype(dtype if whole_numbers else np.result_type(dtype, np.float32), copy=False)


def like(array: NDArray, example: object) -> object:
    """The array, or a torch tensor of it where the example is one."""
    torch = sys.modules.get("torch")
    if torch and isinstance(example, torch.Tensor):
        return torch.from_numpy(np.array(array))
    return array


def kind(fn: Call, array: NDArray) -> Hashable:
    """Equal for items that may share a group: the same function, shape and type.

    A lambda made anew at each turn of a loop is the same function, as long as what it closes over is.
    """
    return _call(fn), array.shape, array.dtype.str


@dataclass(frozen=True, eq=False)
class _Same:
    """An object compared by identity, and kept, so that no other takes its place."""

    held: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _call(fn: object) -> Hashable:
    """What a function computes by."""
    if not isinstance(fn, types.FunctionType):
        try:
            hash(fn)
        except TypeError:
            return _Same(fn)
        return fn
    bound = (fn.__defaults__ or (), *sorted((fn.__kwdefaults__ or {}).items(), key=lambda pair: pair[0]))
    inside = [_Same(value) for values in bound for value in values]
    return fn.__code__, (*inside, *(_Same(_contents(cell)) for cell in fn.__closure__ or ()))


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put into it yet
        return cell
