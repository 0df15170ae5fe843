"""With what, when and from which seeds an audit was made."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version

from fedeff.audit.result import Provenance, Value
from fedeff.audit.tiers import Effort

__all__ = ["provenance_of"]


def provenance_of(
    efforts: Sequence[Effort], seeds: Iterable[int], started: datetime, seconds: float
) -> Provenance:
    """Versions, the seeds without repeats, and every option of each attack that was to be tried."""
    versions = {name: version(name) for name in ("fedeff", "flwr", "torch", "numpy")}
    return Provenance(
        started_at=started.isoformat(timespec="seconds"),
        seconds=seconds,
        seeds=tuple(sorted(set(seeds))),
        versions={"python": platform.python_version(), **versions},
        attacks={one.attack: {"seconds": one.seconds, **_options(one.made())} for one in efforts},
    )


def _options(attack: object) -> dict[str, Value]:
    values = asdict(attack)  # type: ignore[call-overload]
    numbers = {name: value for name, value in values.items() if name != "name"}
    return {name: value for name, value in numbers.items() if isinstance(value, bool | int | float | str)}
