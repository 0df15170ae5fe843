"""A small network of two layers with its gradient by hand, and Adam: what a decoder of Grams needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Adam", "Mlp", "Parameters"]

NDArray = np.ndarray[Any, np.dtype[np.float64]]
Parameters = dict[str, NDArray]


@dataclass(frozen=True)
class Mlp:
    """`tanh(x W1 + b1) W2 + b2` in float64; `parameters` are changed in place by training."""

    parameters: Parameters

    @classmethod
    def initial(cls, inputs: int, hidden: int, outputs: int, rng: np.random.Generator) -> "Mlp":
        """A network that answers 0 to everything: it begins as a correction that corrects nothing."""
        return cls(
            {
                "w1": rng.normal(size=(inputs, hidden)) / math.sqrt(inputs),
                "b1": np.zeros(hidden),
                "w2": np.zeros((hidden, outputs)),
                "b2": np.zeros(outputs),
            }
        )

    def __call__(self, x: NDArray) -> NDArray:
        """The outputs, (..., outputs), of inputs (..., inputs)."""
        return np.asarray(self._hidden(x) @ self.parameters["w2"] + self.parameters["b2"])

    def gradient(self, x: NDArray, outer: NDArray) -> Parameters:
        """The gradient by parameter of a loss whose gradient by the outputs of `x` is `outer`."""
        hidden = self._hidden(x)
        rows, outer = hidden.reshape(-1, hidden.shape[-1]), outer.reshape(-1, outer.shape[-1])
        inner = (outer @ self.parameters["w2"].T) * (1 - rows**2)
        flat = x.reshape(-1, x.shape[-1])
        return {"w1": flat.T @ inner, "b1": inner.sum(0), "w2": rows.T @ outer, "b2": outer.sum(0)}

    def _hidden(self, x: NDArray) -> NDArray:
        return np.asarray(np.tanh(x @ self.parameters["w1"] + self.parameters["b1"]))


@dataclass
class Adam:
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1) on named arrays."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    _steps: int = 0
    _moments: dict[str, tuple[NDArray, NDArray]] = field(default_factory=dict)

    def step(self, parameters: Parameters, gradient: Mapping[str, NDArray]) -> None:
        """Move the parameters in place, against the gradient."""
        self._steps += 1
        one, two = self.betas
        for name, slope in gradient.items():
            first, second = self._moments.get(name, (np.zeros_like(slope), np.zeros_like(slope)))
            first, second = one * first + (1 - one) * slope, two * second + (1 - two) * slope**2
            self._moments[name] = first, second
            mean, square = first / (1 - one**self._steps), second / (1 - two**self._steps)
            parameters[name] -= self.learning_rate * mean / (np.sqrt(square) + self.epsilon)
