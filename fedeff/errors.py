"""Every exception that fedeff raises on purpose, under its public name."""

from fedeff.core.errors import (
    AppError,
    CodecError,
    CodeError,
    ConfigError,
    DataError,
    EngineError,
    FedeffError,
    FieldError,
    ReplyError,
    ResumeError,
    StateError,
    TraceError,
)

__all__ = [
    "AppError",
    "CodeError",
    "CodecError",
    "ConfigError",
    "DataError",
    "EngineError",
    "FedeffError",
    "FieldError",
    "ReplyError",
    "ResumeError",
    "StateError",
    "TraceError",
]
