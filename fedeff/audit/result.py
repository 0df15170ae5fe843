"""An audit from its configuration to its verdict, as one value with a versioned JSON form."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Trial
from fedeff.audit.judging.verdict import Outcome, Verdict
from fedeff.core.errors import AuditError

__all__ = [
    "SCHEMA",
    "AuditResult",
    "Claim",
    "Fix",
    "Guarantee",
    "LayerLeak",
    "NoisePoint",
    "Provenance",
    "SeenArray",
    "Threat",
    "Value",
    "configuration_of",
    "hash_of",
    "read_result",
]

SCHEMA = "fedeff-audit/1"

Threat = Literal["curious", "informed", "malicious"]
Value = bool | int | float | str

# Folders of a machine: a record says that one was named, not which.
_FOLDERS = {"data-folder", "run-folder", "initial-weights"}
_NAMED = "(named)"
# Public rows, which may be shown. "auto" is one of the others; fashion-mnist is checked by its hash
# wherever it lies, plays in a folder that somebody named may be anything.
_BUNDLED = {"auto", "digits", "fashion-mnist", "shakespeare"}


@dataclass(frozen=True)
class SeenArray:
    """One array as the server saw it: the share of its entries that are known, and how exactly.

    `error_std` is the standard deviation that is to be expected of a known entry, by its root mean
    square; 0 is exact but for the wire's dtype.
    """

    name: str
    shape: tuple[int, ...]
    known_share: float
    error_std: float


@dataclass(frozen=True)
class Guarantee:
    """The formal guarantee: epsilon at delta, recomputed; None where there is none.

    `claimed` is what the configuration's own words come to where that differs.
    """

    epsilon: float | None = None
    delta: float | None = None
    claimed: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """`epsilon = 1.2 at delta 1e-05`, or `none`."""
        if self.epsilon is None:
            return "none"
        at = "" if self.delta is None else f" at delta {self.delta:g}"
        return f"epsilon = {self.epsilon:.3g}{at}"


@dataclass(frozen=True)
class NoisePoint:
    """How well the best attack did at one level of noise, in dB, and what no attacker does better than.

    `unbiased_db` bounds attackers without a prior (Cramer-Rao), `prior_db` those with one (van Trees).
    """

    std: float
    psnr_db: float | None
    unbiased_db: float | None = None
    prior_db: float | None = None


@dataclass(frozen=True)
class LayerLeak:
    """What one layer gives away when it is all that is known."""

    layer: str
    entries: int
    psnr_db: float | None = None
    gain_db: float | None = None
    labels_f1: float | None = None


@dataclass(frozen=True)
class Claim:
    """Something the configuration is often said to protect by, and whether this audit bears it out."""

    claim: str
    holds: bool | None  # None: not tried here
    why: str
    source: str = ""


@dataclass(frozen=True)
class Fix:
    """The cheapest change of the configuration under which the attacks of this audit failed."""

    settings: Mapping[str, Value]
    outcome: Outcome
    sentence: str
    accuracy_cost: float | None = None  # a share: 0.01 is one point


@dataclass(frozen=True)
class Provenance:
    """With what, when and from which seeds; nothing of the machine's folders."""

    started_at: str  # ISO 8601, UTC
    seconds: float
    seeds: tuple[int, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    attacks: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)  # the options of each


@dataclass(frozen=True)
class AuditResult:
    """Everything that an audit found; `write` makes the report, `to_json` what programs read.

    `controls` are the same attacks on the same victims without the defence, `worst_case` those of an
    attacker who also knows what is private (labels, statistics), for a second column.

    >>> SCHEMA
    'fedeff-audit/1'
    """

    name: str  # what was audited, in a few words: "the built-in app"
    configuration: Mapping[str, Value]  # as `configuration_of` gives it
    dataset: str
    model: str
    threat: Threat
    tier: str
    rules: Rules
    verdict: Verdict
    trials: tuple[Trial, ...]
    controls: tuple[Trial, ...]
    provenance: Provenance
    seen: tuple[SeenArray, ...] = ()
    exchanges: int = 1
    clients_summed: int = 1
    guarantee: Guarantee = Guarantee()
    worst_case: tuple[Trial, ...] = ()
    layers: tuple[LayerLeak, ...] = ()
    noise: tuple[NoisePoint, ...] = ()
    claims: tuple[Claim, ...] = ()
    fix: Fix | None = None
    vocabulary: str = ""  # the character of each token, where tokens are characters
    is_redacted: bool = False
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise AuditError(f"a result of schema {self.schema!r}; this version reads {SCHEMA!r}")

    @property
    def exit_code(self) -> int:
        """0 pass, 1 leak, 2 inconclusive."""
        return self.verdict.exit_code

    @property
    def configuration_sha256(self) -> str:
        """The hash of the audited configuration: equal for equal settings, on any machine."""
        return hash_of(self.configuration)

    @property
    def bundled(self) -> bool:
        """Whether the rows come with fedeff or are public data that it knows, so that they may be shown."""
        foreign = self.dataset == "shakespeare" and bool(self.configuration.get("data-folder"))
        return self.dataset in _BUNDLED and not foreign

    def redacted(self) -> "AuditResult":
        """The same without a single original or rebuilt sample; all numbers stay."""
        return replace(
            self,
            trials=tuple(trial.redacted() for trial in self.trials),
            controls=tuple(trial.redacted() for trial in self.controls),
            worst_case=tuple(trial.redacted() for trial in self.worst_case),
            is_redacted=True,
        )

    def to_json(self) -> bytes:
        """The result as JSON, samples included; `redacted()` first where they must stay."""
        content = {**msgspec.to_builtins(self), "configuration_sha256": self.configuration_sha256}
        return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def read_result(path: Path | str) -> AuditResult:
    """The result in an `audit.json`.

    Raises:
        AuditError: it is no audit, one of another schema, or its configuration was changed.
    """
    try:
        content: dict[str, Any] = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
        if content.get("schema") != SCHEMA:
            raise AuditError(f"{path} has schema {content.get('schema')!r}; this version reads {SCHEMA!r}")
        stamped = content.pop("configuration_sha256", None)
        result = msgspec.convert(content, AuditResult)
    except msgspec.MsgspecError as error:
        raise AuditError(f"{path} is not the record of an audit ({error}); run the audit again") from error
    if stamped != result.configuration_sha256:
        raise AuditError(f"{path}: the configuration is not the one that was audited (its hash differs)")
    return result


def configuration_of(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Settings by name, sorted; of those that name folders of a machine only that they do."""
    return {
        name: _NAMED if name in _FOLDERS and settings[name] else settings[name] for name in sorted(settings)
    }


def hash_of(configuration: Mapping[str, Value]) -> str:
    """SHA-256 of the configuration as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(dict(configuration), order="sorted")).hexdigest()
