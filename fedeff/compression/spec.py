"""Codecs by name: `codec_of` reads a spec, `spec_of` writes it."""

import json
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any, cast

from fedeff.compression.chain import Chain
from fedeff.compression.codec import Codec
from fedeff.compression.ef21 import EF21
from fedeff.compression.error_feedback import ErrorFeedback
from fedeff.compression.grammar import Call, Value, parse
from fedeff.compression.half import Half
from fedeff.compression.per_layer import PerLayer
from fedeff.compression.power_sgd import PowerSGD
from fedeff.compression.qsgd import QSGD
from fedeff.compression.random_k import RandomK
from fedeff.compression.raw import Raw
from fedeff.compression.sign import Sign
from fedeff.compression.tern_grad import TernGrad
from fedeff.compression.top_k import TopK
from fedeff.compression.uniform import Uniform
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["codec_names", "codec_of", "spec_of"]

_CODECS: dict[str, Any] = {
    one.name: one
    for one in (
        Chain, EF21, ErrorFeedback, Half, PerLayer, PowerSGD, QSGD, RandomK, Raw, Sign, TernGrad, TopK,
        Uniform,
    )
}  # fmt: skip


@lru_cache(maxsize=64)
def codec_of(spec: str) -> Codec:
    """The codec of a spec such as `error_feedback(chain(top_k(0.01), uniform(4)))`.

    Raises `ConfigError` that names what is not understood, with the nearest known name.

    >>> codec_of("top_k(0.01)")
    TopK(fraction=0.01)
    """
    return _built(parse(spec))


def spec_of(codec: Codec) -> str:
    """The spec from which `codec_of` makes an equal codec; fields at their default are left out.

    >>> spec_of(codec_of("per_layer({'fc2.*': raw, '*': tern_grad(2.5)})"))
    'per_layer({"fc2.*": raw, "*": tern_grad})'
    """
    shown: list[str] = []
    for place, field in enumerate(fields(cast(Any, codec))):
        value = getattr(codec, field.name)
        if field.default is MISSING or value != field.default:
            in_its_place = len(shown) == place
            shown.append(_value_shown(value) if in_its_place else f"{field.name}={_value_shown(value)}")
    return f"{codec.name}({', '.join(shown)})" if shown else codec.name


def codec_names() -> tuple[str, ...]:
    """The names that a spec may use."""
    return tuple(_CODECS)


def _value_shown(value: Any) -> str:
    if isinstance(value, tuple):  # the rules of `PerLayer`
        return "{" + ", ".join(f'"{pattern}": {spec_of(codec)}' for pattern, codec in value) + "}"
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value) if isinstance(value, int | float) else spec_of(value)


def _built(call: Call) -> Codec:
    if call.name not in _CODECS:
        raise unknown_name("codec", call.name, _CODECS)
    cls = _CODECS[call.name]
    names = [field.name for field in fields(cls)]
    found: dict[str, Any] = {}
    for place, (field, value) in enumerate(call.items):
        key = _field_of(call.name, field, place, names)
        if key in found:
            raise ConfigError(f"{call.name} is given its {key} twice")
        found[key] = _value(value)
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in found]
    if missing:
        raise ConfigError(f"{call.name} lacks its {' and '.join(missing)}; such as {_EXAMPLES[call.name]}")
    return cast(Codec, cls(**found))


def _field_of(codec: str, field: str | None, place: int, names: list[str]) -> str:
    if field is None and place >= len(names):
        raise ConfigError(f"{codec} takes {', '.join(names) or 'no values'}; value {place + 1} is too many")
    if field is not None and field not in names:
        raise unknown_name(f"field of {codec}", field, names)
    return field or names[place]


def _value(value: Value) -> Any:
    if isinstance(value, Call):
        return _built(value)
    if isinstance(value, dict):
        return {pattern: _built(call) for pattern, call in value.items()}
    return value


_EXAMPLES = {
    "chain": "chain(top_k(0.01), uniform(4))",
    "ef21": "ef21(top_k(0.01))",
    "error_feedback": "error_feedback(top_k(0.01))",
    "per_layer": 'per_layer({"fc2.*": raw, "*": tern_grad})',
    "random_k": "random_k(0.01)",
    "top_k": "top_k(0.01)",
}
