"""The exception tree: everything fedeff raises on purpose is a `FedeffError`.

A message says what was seen, what was expected and what to do. The command line prints it as
one line and exits with status 2; a bug, which is any other exception, keeps its traceback.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "AppError",
    "AuditError",
    "CodeError",
    "CodecError",
    "ConfigError",
    "DamagedStateError",
    "DataError",
    "DeploymentError",
    "EngineError",
    "FedeffError",
    "FieldError",
    "PrivacyBudgetError",
    "PrivacyError",
    "ReplyError",
    "ResumeError",
    "SecureAggregationError",
    "StateError",
    "TraceError",
    "unknown_name",
]


class FedeffError(Exception):
    """The root: catch this to catch whatever fedeff refuses or reports."""


class ConfigError(FedeffError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(FedeffError):
    """A data file is missing, corrupt, or cannot be split as asked."""


class TraceError(FedeffError):
    """A delay trace cannot be read or holds impossible durations."""


class AppError(FedeffError):
    """A Flower app folder cannot be loaded: no components, no file, wrong type."""


class AuditError(FedeffError):
    """An audit cannot be made: nothing to attack, an attack that does not apply, a view without its round."""


class EngineError(FedeffError):
    """The simulation engine cannot start or cannot go on."""


class StateError(FedeffError):
    """Client state cannot be stored or read back, for instance on a full disk."""


class DamagedStateError(StateError):
    """A file of client state was changed or torn since it was written; whoever reads it may do without."""


class ResumeError(FedeffError):
    """A run cannot be continued, or its folder is already in use."""


class DeploymentError(FedeffError):
    """A deployment's processes cannot be started, reached or ended."""


class ReplyError(FedeffError):
    """A client's reply does not fit the round: other keys, other shapes, NaN."""


class SecureAggregationError(FedeffError):
    """A step of a secure sum was refused: too few clients, a wrong, changed or repeated message."""


class CodeError(FedeffError):
    """A group does not fit its code, or too few answers came to decode it."""


class FieldError(FedeffError):
    """A number does not fit the prime field, or has no inverse in it."""


class CodecError(FedeffError):
    """An array cannot be coded (NaN, wrong type), or bytes are not what a codec writes."""


class PrivacyError(FedeffError):
    """Something would reveal more of a client than is accounted for, or cannot be accounted for."""


class PrivacyBudgetError(PrivacyError):
    """The next round would reveal more of a client than the run may: it ends with the round before."""


def unknown_name(kind: str, seen: str, known: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a misspelt name that lists the nearest valid ones.

    >>> str(unknown_name("dataset", "fashon", ["fashion-mnist", "digits"]))
    "unknown dataset 'fashon'; did you mean 'fashion-mnist'? Known: digits, fashion-mnist"
    """
    names = sorted(known)
    near = difflib.get_close_matches(seen, names, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
    return ConfigError(f"unknown {kind} {seen!r}{hint} Known: {', '.join(names)}")
