"""The grammar of specs, without what the names mean.

It is that of Python's calls, read by a parser of its own: specs also come with blobs from anyone,
and Python's parser may warn about, or choke on, what it is given.

    call  = name [ "(" [ item { "," item } ] ")" ]        item = [ field "=" ] value
    value = call | number | "text" | True | False | "{" "text": call { "," "text": call } "}"
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fedeff.core.errors import ConfigError

__all__ = ["LONGEST_SPEC", "Call", "Value", "parse"]

LONGEST_SPEC = 4096
_DEEPEST = 8  # calls within calls
_TOKEN = re.compile(
    r"""\s*(?: (?P<name>[A-Za-z_][A-Za-z_0-9]*) | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<text>"[^"\\]*"|'[^'\\]*') | (?P<sign>[(){}:,=]) | (?P<end>\Z) | (?P<other>.) )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_WORDS = {"True": True, "False": False}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Call:
    """A name and its items: each a field's name, or none where the place says it, and a value."""

    name: str
    items: tuple[tuple[str | None, "Value"], ...]


Value = Call | float | int | str | bool | dict[str, Call]


def parse(spec: str) -> Call:
    """The call that `spec` writes; raises `ConfigError` that says what is where something else should be."""
    if len(spec) > LONGEST_SPEC:
        raise ConfigError(f"the codec's spec is {len(spec)} characters long; at most {LONGEST_SPEC}")
    reader = _Reader(spec)
    call = reader.call(_DEEPEST)
    reader.take("end")
    return call


class _Reader:
    """One spec, token by token."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._end = 0
        self._advance()

    def call(self, depth: int) -> Call:
        if not depth:
            raise ConfigError(f"the codec's spec {self._spec[:80]!r}... is nested deeper than {_DEEPEST}")
        name = self.take("name")
        items = self._listed("(", ")", lambda: self._item(depth)) if self._token == "(" else []
        return Call(name, tuple(items))

    def take(self, kind: str, token: str = "") -> str:
        """The present token, which must be of this kind; goes on to the next."""
        if self._kind != kind or (token and self._token != token):
            seen = repr(self._token) if self._token else "an end"
            wanted = (
                repr(token) if token else {"end": "its end", "text": "quoted text"}.get(kind, f"a {kind}")
            )
            raise ConfigError(
                f"the codec's spec {self._spec!r} has {seen} at character {self._end} instead of {wanted}"
            )
        found = self._token
        self._advance()
        return found

    def _advance(self) -> None:
        match = _TOKEN.match(self._spec, self._end)
        assert match is not None  # `other` takes any character
        self._kind, self._end = str(match.lastgroup), match.end()
        self._token = match.group(self._kind)

    def _listed(self, opening: str, closing: str, read: Callable[[], _T]) -> list[_T]:
        found: list[_T] = []
        self.take("sign", opening)
        while self._token != closing:
            found.append(read())
            if self._token != closing:
                self.take("sign", ",")
        self.take("sign", closing)
        return found

    def _item(self, depth: int) -> tuple[str | None, Value]:
        value = self._value(depth)
        if self._token != "=":
            return None, value
        if not isinstance(value, Call) or value.items:
            raise ConfigError(f"the codec's spec {self._spec!r} has '=' after {value!r}; a field is a name")
        self.take("sign", "=")
        return value.name, self._value(depth)

    def _value(self, depth: int) -> Value:
        if self._token in _WORDS:
            return _WORDS[self.take("name")]
        if self._kind == "number":
            return _number(self.take("number"))
        if self._kind == "text":
            return self.take("text")[1:-1]
        if self._token == "{":
            return dict(self._listed("{", "}", lambda: self._rule(depth)))
        return self.call(depth - 1)

    def _rule(self, depth: int) -> tuple[str, Call]:
        pattern = self.take("text")[1:-1]
        self.take("sign", ":")
        return pattern, self.call(depth - 1)


def _number(token: str) -> float | int:
    whole = token.lstrip("+-").isdigit() and len(token) < 20
    return int(token) if whole else float(token)
