"""Smoothing splines as a code: inputs and answers lie near smooth curves, which are fitted on both sides."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedeff.codes.berrut import input_points, worker_points
from fedeff.codes.code import Decoded, NDArray, check_inputs, check_outputs
from fedeff.codes.linear import Matrix, check_sizes, combine
from fedeff.core.errors import ConfigError

__all__ = ["Spline", "smoothing_matrix"]


@dataclass(frozen=True)
class Spline:
    """The curve of least `sum (u(a_j) - x_j)^2 + smooth * int u''^2` through inputs, and through answers.

    NeRCC and LeTCC (Moradi, Tahmasebi & Maddah-Ali, arXiv:2402.04377 and 2406.00300), at Berrut's points.
    As with `Berrut` any number of answers decodes, for any F, and none is exact. 0 interpolates;
    smooth more where answers are noisy, not merely curved. On a network's answers a learned code is
    far ahead.
    """

    k: int
    r: int
    smooth_encoder: float = 0.0
    smooth_decoder: float = 1e-6
    systematic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sizes("spline", self.k, self.r)
        for name in ("smooth_encoder", "smooth_decoder"):
            weight = getattr(self, name)
            if not 0 <= weight < np.inf:
                raise ConfigError(f"spline: {name} is {weight}, expected 0 or more, such as 1e-6")

    def encode(self, inputs: NDArray) -> NDArray:
        """The curve through the inputs at the workers' points, `(k + r, ...)`."""
        check_inputs(self, inputs)
        return combine(_encoding(self.k, self.k + self.r, self.smooth_encoder), inputs)

    def decode(self, outputs: NDArray, mask: NDArray) -> Decoded:
        """The curve through the outputs that came at the inputs' points; quality was not measured."""
        check_outputs(self, outputs, mask)
        matrix = _decoding(self.k, mask.tobytes(), self.smooth_decoder)
        return Decoded(combine(matrix, outputs[mask]), np.full(self.k, np.nan))

    def decodable(self, mask: NDArray) -> bool:
        """Whether anything came."""
        return bool(mask.any())


def smoothing_matrix(from_points: Matrix, to_points: Matrix, smooth: float) -> Matrix:
    """`(to, from)` weights of the cubic smoothing spline through values at falling `from_points`.

    What `scipy.interpolate.make_smoothing_spline(..., lam=smooth)` computes, which needs five points; by
    Green and Silverman's (1994) equations it is defined for fewer: a straight line through two, a
    constant through one. Beyond the outermost points it is a straight line, as the minimum is (SciPy's
    goes on with the last cubic).
    """
    knots = from_points[::-1]
    if len(knots) == 1:
        return np.ones((len(to_points), 1))
    fitted: NDArray = np.eye(len(knots))
    if smooth > 0 and len(knots) > 2:
        fitted = np.linalg.inv(fitted + smooth * _roughness(knots))
    # Here, not above: SciPy takes a second to load, which every client that is deployed would wait for.
    from scipy.interpolate import CubicSpline

    curve = CubicSpline(knots, fitted, bc_type="natural")
    inside = np.clip(to_points, knots[0], knots[-1])
    weights: Matrix = curve(inside) + (to_points - inside)[:, None] * curve(inside, 1)
    return weights[:, ::-1]


# Kept, as SciPy's spline takes ten times as long as a small group's product, and patterns come again.
@functools.lru_cache(maxsize=512)
def _encoding(k: int, n: int, smooth: float) -> Matrix:
    return smoothing_matrix(input_points(k), worker_points(n), smooth)


@functools.lru_cache(maxsize=512)
def _decoding(k: int, came: bytes, smooth: float) -> Matrix:
    mask = np.frombuffer(came, np.bool_)
    return smoothing_matrix(worker_points(len(mask))[mask], input_points(k), smooth)


def _roughness(knots: Matrix) -> Matrix:
    """`int u''^2` of the natural spline through values `g` is `g' roughness g` (`Q R^-1 Q'`)."""
    gaps, inner = np.diff(knots), len(knots) - 2
    second = np.zeros((inner, len(knots)))
    rows = np.arange(inner)
    second[rows, rows], second[rows, rows + 2] = 1 / gaps[:-1], 1 / gaps[1:]
    second[rows, rows + 1] = -1 / gaps[:-1] - 1 / gaps[1:]
    band = np.diag((gaps[:-1] + gaps[1:]) / 3) + np.diag(gaps[1:-1] / 6, 1) + np.diag(gaps[1:-1] / 6, -1)
    rough: Matrix = second.T @ np.linalg.solve(band, second)
    return rough
