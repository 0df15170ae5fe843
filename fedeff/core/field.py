"""Arithmetic modulo the prime 2^31 - 1, and Lagrange interpolation there, on numpy arrays of int64.

Elements are int64 in `[0, PRIME)`, of any shape; functions take those and return those, and only
`check_elements` looks whether they are. The prime is the largest whose product of two elements, and the sum
of two such products, fits in int64, so a number has 31 bits less its sign: four bytes on the wire,
three bits more than a prime below 2^28, which would let 128 products fit. It need not pay in
speed: as 2^31 = 1 modulo this prime, a product is reduced by a mask, a shift and an addition, and `matmul`
sums products of halves in float64, where BLAS does it. For d = 1M, `(10 x 7) @ (7 x d)` takes 0.15 s of one
core either way; numpy's own int64 product, which does not use BLAS, takes 0.23 s below 2^28.
"""

import secrets
from typing import Any

import numpy as np

from fedeff.core.errors import FieldError

__all__ = [
    "PRIME",
    "add",
    "check_elements",
    "from_field",
    "inverse",
    "lagrange_matrix",
    "matmul",
    "multiply",
    "null_vector",
    "power",
    "random_elements",
    "secret_elements",
    "subtract",
    "to_field",
]

Elements = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

PRIME = 2**31 - 1
_BITS = 31
_HALF_BITS = 16
_LARGEST = PRIME // 2  # of the numbers that fixed point can hold, either sign
# A product of a half and an element is below 2^47, so 64 of them are exact in float64.
_TERMS = 64
_COLUMNS = 2048  # at once: what is computed between two reductions stays in the second-level cache


def add(a: Elements, b: Elements) -> Elements:
    """`a + b`."""
    return _reduce(a + b)


def subtract(a: Elements, b: Elements) -> Elements:
    """`a - b`."""
    return _reduce(a - b + PRIME)


def multiply(a: Elements, b: Elements) -> Elements:
    """`a * b`, element by element."""
    return _reduce(a * b)


def power(a: Elements, exponent: int) -> Elements:
    """`a ** exponent`, by squaring; 0 ** 0 is 1.

    Raises:
        FieldError: for a negative exponent.
    """
    if exponent < 0:
        raise FieldError(f"exponent {exponent}, expected 0 or more; take a power of the inverse")
    found, square = np.ones_like(a), a
    while exponent:
        if exponent & 1:
            found = multiply(found, square)
        exponent >>= 1
        if exponent:
            square = multiply(square, square)
    return found


def inverse(a: Elements) -> Elements:
    """The numbers that make `a` one when multiplied by it (Fermat: `a ** (p - 2)`).

    Raises:
        FieldError: where `a` is zero.
    """
    if not np.all(a):
        raise FieldError("zero has no inverse; expected elements from 1")
    return power(a, PRIME - 2)


def matmul(a: Elements, b: Elements) -> Elements:
    """The matrix product of `(n, u)` and `(u, d)`, exact for every `u`; fast for a wide `b`."""
    halves = np.vstack([a >> _HALF_BITS, a & (2**_HALF_BITS - 1)]).astype(np.float64)
    product = np.zeros((len(a), b.shape[1]), np.int64)
    for start in range(0, b.shape[1], _COLUMNS):
        columns = b[:, start : start + _COLUMNS].astype(np.float64)
        for first in range(0, len(b), _TERMS):
            terms = slice(first, first + _TERMS)
            high, low = np.split((halves[:, terms] @ columns[terms]).astype(np.int64), 2)
            block = product[:, start : start + _COLUMNS]
            block[:] = _reduce((_reduce(high) << _HALF_BITS) + low + block)
    return product


def lagrange_matrix(from_points: Elements, to_points: Elements) -> Elements:
    """`(to, from)`: values at `to_points` of the polynomials that are one at one of `from_points`.

    Its product with values at `from_points` is what the polynomial of the least degree through them has
    at `to_points`. Time and memory are of the order of the matrix and of the square of `from_points`.

    Raises:
        FieldError: if two of `from_points` are equal.
    """
    if len(np.unique(from_points)) < len(from_points):
        raise FieldError("two of the points to interpolate from are equal, expected distinct ones")
    others = subtract(from_points[:, None], from_points)
    np.fill_diagonal(others, 1)
    scale = np.ones_like(from_points)
    for column in others.T:
        scale = multiply(scale, column)
    steps = subtract(to_points[:, None], from_points)
    return multiply(_products_but_one(steps), inverse(scale))


def null_vector(matrix: Elements) -> Elements | None:
    """A vector other than zero that `(rows, columns)` maps to zero, or None where there is none."""
    rows, columns = matrix.shape
    left, pivots = matrix.copy(), list[int]()
    for column in range(columns):
        rank = len(pivots)
        candidates = np.flatnonzero(left[rank:, column])
        if not candidates.size:
            return _kernel_of(left, pivots, column)
        chosen = rank + candidates[0]
        left[[rank, chosen]] = left[[chosen, rank]]
        left[rank] = multiply(left[rank], inverse(left[rank, column]))
        others = np.arange(rows) != rank
        left[others] = subtract(left[others], multiply(left[others, column, None], left[rank]))
        pivots.append(column)
    return None


def random_elements(rng: np.random.Generator, shape: int | tuple[int, ...]) -> Elements:
    """Uniform elements, equal for equal generators. Never for secrets: numpy's generators can be foretold."""
    return rng.integers(0, PRIME, shape, dtype=np.int64)


def secret_elements(shape: tuple[int, ...]) -> Elements:
    """Uniform elements of the operating system's randomness, for what must stay secret."""
    count = int(np.prod(shape))
    drawn = np.frombuffer(secrets.token_bytes(4 * count), np.uint32).astype(np.int64) & PRIME
    if (beyond := drawn == PRIME).any():  # one of 2^31 draws is no element; zero must not get its share too
        drawn[beyond] = secret_elements((int(beyond.sum()),))
    return drawn.reshape(shape)


def to_field(x: Floats, fraction_bits: int, *, terms: int = 1) -> Elements:
    """Fixed point: `x * 2**fraction_bits` rounded to whole numbers, negative ones from the upper half.

    Raises:
        FieldError: for what is not finite, or so large that a sum of `terms` of them could wrap around.
    """
    scaled = np.rint(np.ldexp(np.asarray(x, np.float64), fraction_bits))
    peak, largest = np.abs(scaled).max(initial=0.0), _LARGEST // terms
    if not peak <= largest:
        raise FieldError(
            f"a number of size {np.ldexp(peak, -fraction_bits):.6g}, expected at most "
            f"{np.ldexp(float(largest), -fraction_bits):.6g} with {fraction_bits} fraction bits "
            f"and {terms} terms; clip it or take fewer bits"
        )
    whole = scaled.astype(np.int64)
    return whole + PRIME * (whole < 0)


def from_field(elements: Elements, fraction_bits: int) -> Floats:
    """The numbers that `to_field` or sums of its results stand for, float64."""
    signed = elements - PRIME * (elements > _LARGEST)
    return np.ldexp(signed.astype(np.float64), -fraction_bits)


def check_elements(what: str, x: np.ndarray[Any, np.dtype[Any]]) -> Elements:
    """`x` as int64.

    Raises:
        FieldError: unless these are whole numbers in `[0, PRIME)`.
    """
    if not np.issubdtype(x.dtype, np.integer):
        raise FieldError(f"{what} of {x.dtype}, expected whole numbers; write floats with `to_field`")
    if x.size and (x.min() < 0 or x.max() >= PRIME):
        raise FieldError(f"{what} from {x.min()} to {x.max()}, expected 0 to {PRIME - 1}")
    return x.astype(np.int64, copy=False)


def _reduce(x: Elements) -> Elements:
    """`x` modulo the prime, for `0 <= x < 2^62 - 2^31`, which holds for a product and a few sums beside."""
    x = np.asarray(x)
    found: Elements = (x & PRIME) + (x >> _BITS)  # at most twice the prime
    less = found - PRIME
    # A negative number is a huge unsigned one, so the lesser of both is the one in range.
    return np.minimum(found.view(np.uint64), less.view(np.uint64)).view(np.int64)


def _products_but_one(x: Elements) -> Elements:
    """For each entry the product of the others in its row: of those before, times that of those after."""
    before, after = np.ones_like(x), np.ones_like(x)
    for column in range(1, x.shape[1]):
        before[:, column] = multiply(before[:, column - 1], x[:, column - 1])
        after[:, -column - 1] = multiply(after[:, -column], x[:, -column])
    return multiply(before, after)


def _kernel_of(reduced: Elements, pivots: list[int], free: int) -> Elements:
    """The solution with one at the first free column of a matrix in reduced form up to there."""
    solution = np.zeros(reduced.shape[1], np.int64)
    solution[free] = 1
    solution[pivots] = subtract(np.zeros(len(pivots), np.int64), reduced[: len(pivots), free])
    return solution
