"""Attacks by defences: what each rebuilt under each, with and without knowing of the defence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fedeff.audit.result import Provenance, Threat, Value
from fedeff.core.errors import AuditError

__all__ = ["MATRIX_SCHEMA", "MatrixCell", "MatrixDefence", "MatrixResult", "read_matrix"]

MATRIX_SCHEMA = "fedeff-audit-matrix/1"


@dataclass(frozen=True)
class MatrixDefence:
    """One configuration of the matrix, and what it costs; None where that was not measured."""

    name: str
    settings: Mapping[str, Value] = field(default_factory=dict)  # that make the difference
    accuracy: float | None = None  # a share, of the model that was trained under it
    uplink_bytes: float | None = None  # of one client in one round
    epsilon: float | None = None


@dataclass(frozen=True)
class MatrixCell:
    """One attack under one defence: medians over trials of each trial's best row.

    `adaptive`: the attack was told what the defence leaves known and how exactly; a naive one takes every
    number at its word. In `unfinished` trials it did not come to its end. `obstacle` says why it has no
    number: it could not be tried, or told nothing.
    """

    attack: str
    defence: str
    adaptive: bool
    trials: int = 0
    leaks: int = 0
    psnr_db: float | None = None
    gain_db: float | None = None
    tokens: float | None = None
    labels_f1: float | None = None
    seconds: float | None = None
    obstacle: str = ""
    unfinished: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.leaks <= self.trials:
            raise AuditError(f"{self.leaks} leaks in {self.trials} trials; expected at most one each")


@dataclass(frozen=True)
class MatrixResult:
    """Every cell of the matrix; `attacks` and `defences` are in the order of the picture.

    It holds numbers alone, no sample of anybody's.
    """

    name: str
    model: str
    dataset: str
    threat: Threat
    tier: str
    attacks: tuple[str, ...]
    defences: tuple[MatrixDefence, ...]
    cells: tuple[MatrixCell, ...]
    provenance: Provenance
    schema: str = MATRIX_SCHEMA

    def __post_init__(self) -> None:
        if self.schema != MATRIX_SCHEMA:
            raise AuditError(f"a matrix of schema {self.schema!r}; this version reads {MATRIX_SCHEMA!r}")
        known = {defence.name for defence in self.defences}
        for cell in self.cells:
            if cell.attack not in self.attacks or cell.defence not in known:
                raise AuditError(
                    f"a cell of {cell.attack} under {cell.defence}, of which the matrix has none"
                )

    def cell(self, attack: str, defence: str, adaptive: bool) -> MatrixCell | None:
        """The cell in that place; None where it was not measured."""
        place = (attack, defence, adaptive)
        return next((one for one in self.cells if (one.attack, one.defence, one.adaptive) == place), None)

    def to_json(self) -> bytes:
        """The matrix as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_matrix(path: Path | str) -> MatrixResult:
    """The matrix in a `matrix.json`.

    Raises:
        AuditError: it is none, or one of another schema.
    """
    try:
        content: dict[str, Any] = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
        return msgspec.convert(content, MatrixResult)
    except msgspec.MsgspecError as error:
        raise AuditError(f"{path} is not the record of a matrix ({error}); run it again") from error
