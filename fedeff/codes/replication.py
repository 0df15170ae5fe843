"""Replication: the parities are copies of the inputs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.linear import check_sizes

__all__ = ["Replication"]


@dataclass(frozen=True)
class Replication:
    """Worker `i` computes input `i mod k`: with `r = k` each twice, with `r = 0` nothing is coded.

    Exact for every function and every dtype. It pays `r = k` for what an MDS code does with `r = 1`, and
    still fails when both copies of one input are late; for linear functions take `MDS`.
    """

    k: int
    r: int
    systematic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes("replication", self.k, self.r)

    def encode(self, inputs: NDArray) -> NDArray:
        """The copies, `(r, ...)`."""
        check_inputs(self, inputs)
        return inputs[np.arange(self.k, self.k + self.r) % self.k]

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """For each input the output of the first worker that holds it, as it is."""
        check_outputs(self, outputs, mask)
        return Decoded(outputs[self._came(mask).argmax(axis=0)], np.ones(self.k))

    def decodable(self, mask: NDArray) -> bool:
        """Whether each input has a worker whose output came."""
        return bool(self._came(mask).any(axis=0).all())

    def _came(self, mask: NDArray) -> NDArray:
        """`(k + r, k)`: whether this worker holds this input, and came."""
        held = np.arange(self.k + self.r)[:, None] % self.k == np.arange(self.k)
        came: NDArray = held & mask[:, None]
        return came
