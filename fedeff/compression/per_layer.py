"""Per layer: which codec an array gets, by its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fedeff.compression.codec import Codec, Memory, NDArray, Shape
from fedeff.compression.fields import check_codec
from fedeff.core.errors import CodecError, ConfigError

__all__ = ["PerLayer"]

_NOT_IN_PATTERNS = frozenset("\"'\\")


@dataclass(frozen=True, init=False)
class PerLayer:
    """The codec of the first pattern that an array's name fits: `{"fc2.*": raw, "*": tern_grad}`.

    Patterns are those of `fnmatch`, case kept; the last is `"*"`, so every array has a codec.
    """

    rules: tuple[tuple[str, Codec], ...]
    name: ClassVar[str] = "per_layer"

    def __init__(self, rules: Mapping[str, Codec]) -> None:
        object.__setattr__(self, "rules", _checked(rules))

    @property
    def linear(self) -> bool:
        """Whether every layer's codec is."""
        return all(codec.linear for _, codec in self.rules)

    def for_array(self, name: str) -> Codec:
        """The codec of the array of this name."""
        return next(codec for pattern, codec in self.rules if fnmatchcase(name, pattern)).for_array(name)

    def encode(self, x: NDArray, memory: Memory, rng: np.random.Generator) -> tuple[bytes, Memory]:
        """Raises `CodecError`: an array without a name has no codec."""
        raise CodecError("per_layer codes named arrays only; ask it for_array(name) first")

    def decode(
        self, payload: bytes | memoryview, shape: Shape, dtype: DTypeLike, memory: Memory
    ) -> tuple[NDArray, Memory]:
        """Raises `CodecError`: an array without a name has no codec."""
        raise CodecError("per_layer codes named arrays only; ask it for_array(name) first")


def _checked(rules: object) -> tuple[tuple[str, Codec], ...]:
    if not isinstance(rules, Mapping):
        raise ConfigError(
            f'per_layer\'s rules are {rules!r}; give patterns with codecs, such as {{"*": raw}}'
        )
    for pattern, codec in rules.items():
        if not isinstance(pattern, str) or not pattern.isprintable() or _NOT_IN_PATTERNS & set(pattern):
            raise ConfigError(
                f"per_layer's pattern {pattern!r} is no plain text without quotes and backslashes"
            )
        check_codec(f"per_layer's codec of {pattern!r}", codec)
    if list(rules)[-1:] != ["*"]:
        raise ConfigError('per_layer\'s last pattern must be "*", for every array that no other pattern fits')
    return tuple(rules.items())
