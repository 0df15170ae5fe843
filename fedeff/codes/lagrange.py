"""Lagrange coded computing over a prime field: exact for polynomials, private, and robust to lies."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.linear import check_sizes, check_whole
from fedeff.codes.reed_solomon import trusted_workers
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.field import (
    PRIME,
    Elements,
    check_elements,
    lagrange_matrix,
    matmul,
    random_elements,
    secret_elements,
)

__all__ = ["Lagrange"]


@dataclass(frozen=True)
class Lagrange:
    """Workers evaluate F at points of the polynomial through the inputs (Yu et al., arXiv:1806.00939).

    `u(z) = sum_j X_j l_j(z) + sum_t N_t l_(k+t)(z)` with `private` random `N_t`; `F(u(z))` has degree
    `(k + private - 1) degree`, so one more answer than that, and two more for each of `byzantine` wrong
    ones, give every `F(X_j)` exactly. Any `private` workers together learn nothing about the inputs.
    With `private = 0` the code is systematic.

    F must be a polynomial of at most this total `degree`, computed modulo `fedeff.core.field.PRIME` on
    whole numbers: write floats with `to_field` and leave room for the product's fraction bits. Not for
    networks with ReLU or softmax, for which take a learned code; and with degree 1 and no privacy `MDS`
    does the same on floats.
    """

    k: int
    r: int
    degree: int = 1
    private: int = 0  # workers that may pool what they hold
    byzantine: int = 0  # wrong answers that are corrected
    whole_numbers: ClassVar[bool] = True  # a pool leaves integers as they are

    def __post_init__(self) -> None:
        check_sizes("Lagrange", self.k, self.r)
        for name, least in (("degree", 1), ("private", 0), ("byzantine", 0)):
            check_whole("Lagrange", name, getattr(self, name), least)
        if self.k + self.r < self.threshold:
            raise ConfigError(
                f"Lagrange: {self.k + self.r} workers, expected at least {self.threshold} for k {self.k}, "
                f"degree {self.degree}, {self.private} private and {self.byzantine} byzantine; "
                f"set r to {self.threshold - self.k} or more"
            )

    @property
    def systematic(self) -> bool:
        """Whether workers may see inputs as they are."""
        return self.private == 0

    @property
    def threshold(self) -> int:
        """How many answers are enough, whichever they are: `(k + T - 1) deg F + 1 + 2 A`."""
        return self._coefficients + 2 * self.byzantine

    @property
    def _coefficients(self) -> int:
        """Of the polynomial `F(u(z))`."""
        return (self.k + self.private - 1) * self.degree + 1

    def encode(self, inputs: NDArray, rng: np.random.Generator | None = None) -> NDArray:
        """Parities `(r, ...)`, or with privacy all `(k + r, ...)`; int64 elements of the field.

        What hides the inputs is drawn anew from the operating system, as privacy needs, and does not
        change what is decoded; `rng` instead makes it repeatable, for tests.

        Raises:
            CodeError: if these are not `k` inputs.
            FieldError: if they are not whole numbers in `[0, PRIME)`.
        """
        check_inputs(self, inputs)
        known = check_elements("inputs", inputs).reshape(self.k, -1)
        shape = (self.private, known.shape[1])
        noise = secret_elements(shape) if rng is None else random_elements(rng, shape)
        tasks = self._worker_points[self.k if self.systematic else 0 :]
        coded = matmul(_weights(_key(self._points), _key(tasks)), np.concatenate([known, noise]))
        return coded.reshape(len(tasks), *inputs.shape[1:])

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The exact answers, int64, from enough true ones.

        Raises:
            CodeError: also if more answers are wrong than can be corrected. That is certain to be seen up to
                as many wrong ones as came beyond the polynomial's coefficients less `byzantine`; of more,
                any code may be fooled.
        """
        check_outputs(self, outputs, mask)
        if not np.issubdtype(outputs.dtype, np.integer):
            raise CodeError(f"outputs of {outputs.dtype}, expected whole numbers of the field")
        answers = outputs[mask].reshape(int(mask.sum()), -1).astype(np.int64)
        outside = (answers < 0) | (answers >= PRIME)
        if outside.any():  # a liar's numbers may lie anywhere; modulo the prime they are elements
            answers[outside] %= PRIME
        shape, quality = (self.k, *outputs.shape[1:]), np.ones(self.k)
        if self._own_answers_do(mask):
            return Decoded(answers[: self.k].reshape(shape), quality)
        points = self._worker_points[mask]
        good = trusted_workers(points, answers, self._coefficients, self.byzantine)[: self._coefficients]
        found = matmul(_weights(_key(points[good]), _key(self._points[: self.k])), answers[good])
        return Decoded(found.reshape(shape), quality)

    def decodable(self, mask: NDArray) -> bool:
        """Whether enough answers came, or all own ones where those need no check."""
        return int(mask.sum()) >= self.threshold or self._own_answers_do(mask)

    def _own_answers_do(self, mask: NDArray) -> bool:
        """Without privacy and liars the first k answers are what is asked for; too few others to check."""
        own = self.systematic and self.byzantine == 0 and bool(mask[: self.k].all())
        return own and int(mask.sum()) <= self._coefficients

    @property
    def _points(self) -> Elements:
        """Where the polynomial has the inputs, and then what hides them."""
        return np.arange(self.k + self.private)

    @property
    def _worker_points(self) -> Elements:
        """Where workers evaluate it: away from the inputs, unless they may be seen."""
        first = 0 if self.systematic else self.k + self.private
        return np.arange(first, first + self.k + self.r)


def _key(points: Elements) -> tuple[int, ...]:
    return tuple(points.tolist())


@functools.lru_cache(maxsize=512)
def _weights(from_points: tuple[int, ...], to_points: tuple[int, ...]) -> Elements:
    """Kept, as inverses take longer than a small group's product and the same workers are late again."""
    return lagrange_matrix(np.array(from_points), np.array(to_points, np.int64))
