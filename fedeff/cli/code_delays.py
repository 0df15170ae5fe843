"""The delays that a command names: a trace's or a model's."""

from pathlib import Path
from typing import TYPE_CHECKING

from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.core.delays import DelayModel

__all__ = ["delays_of"]


def delays_of(trace: Path | None, column: str | None, delays: str | None, seed: int) -> "DelayModel":
    """The delays of `--trace CSV`, of its `column` if one is named, or of `--delays SPEC`.

    Raises:
        ConfigError: if both are given or none is, or the model is unknown.
        TraceError: if the trace cannot be read.
    """
    from fedeff.core.delays import parse_delays
    from fedeff.core.traces import Trace

    if (trace is None) == (delays is None):
        raise ConfigError("say whose delays: either --trace CSV or --delays SPEC")
    if trace is not None:
        return Trace.read(trace, seed=seed, duration=column)
    if column is not None:
        raise ConfigError(f"--column {column} is of a trace; leave it out with --delays")
    return parse_delays(str(delays), seed)
