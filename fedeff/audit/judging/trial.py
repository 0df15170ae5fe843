"""What was tried on one victim, and how near it came: plain values, made once, written and read as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal

import numpy as np

from fedeff.core.errors import AuditError

__all__ = ["LABELS_TOLD_F1", "Attempt", "Ending", "Rows", "Samples", "Score", "Trial"]

NDArray = np.ndarray[Any, np.dtype[Any]]

LABELS_TOLD_F1 = 0.9  # from here on an attack is said to have told a batch's labels

# An attack ended by itself; its time was up; or it stopped early with a loss that still fell.
Ending = Literal["converged", "budget", "stuck"]


@dataclass(frozen=True)
class Score:
    """How near an attack came to the truth; every number is finite, None where there is nothing to say.

    `psnr_db`, `ssim` and `floor_psnr_db` are in the order of the truth's rows: of what was matched to a
    row, and of the better guess without the update; a row to which nothing was matched has None.
    `tokens` is the share of exact tokens, over all rows. Of `tested` rows `identified` were nearer to
    what was rebuilt than each of the `decoys` (the fewest of any row) of the same label.
    `labels_chance` is how often a guess without the update tells the labels as well as F1 0.9.
    """

    rows: int
    rebuilt: int = 0  # rows that the attack gave, all of their numbers finite
    psnr_db: tuple[float | None, ...] = ()
    floor_psnr_db: tuple[float, ...] = ()
    ssim: tuple[float | None, ...] = ()
    tokens: float | None = None
    floor_tokens: float | None = None
    exact_sequences: float | None = None
    rouge_1: float | None = None
    rouge_2: float | None = None
    rouge_l: float | None = None
    labels_f1: float | None = None
    labels_chance: float | None = None
    tested: int = 0
    identified: int = 0
    decoys: int = 0

    def __post_init__(self) -> None:
        if self.psnr_db and not len(self.psnr_db) == len(self.floor_psnr_db) == self.rows:
            raise AuditError(
                f"{len(self.psnr_db)} PSNRs and {len(self.floor_psnr_db)} floors of {self.rows} rows; "
                "give one of each a row"
            )
        if not 0 <= self.identified <= self.tested:
            raise AuditError(f"{self.identified} of {self.tested} rows identified; expected at most all")

    @property
    def labels_told(self) -> bool:
        """Whether nearly all labels are right, order aside."""
        return self.labels_f1 is not None and self.labels_f1 >= LABELS_TOLD_F1

    @property
    def best_row(self) -> int | None:
        """The row with the largest gain over its floor; None where no image was rebuilt."""
        gains = self.gains_db
        rows = [row for row, gain in enumerate(gains) if gain is not None]
        return max(rows, key=lambda row: gains[row] or -np.inf, default=None)

    @property
    def gains_db(self) -> tuple[float | None, ...]:
        """PSNR less the floor's, a row."""
        return tuple(
            None if psnr is None else psnr - floor
            for psnr, floor in zip(self.psnr_db, self.floor_psnr_db, strict=bool(self.psnr_db))
        )

    @property
    def best_psnr_db(self) -> float | None:
        """The PSNR of the row with the largest gain; None where no image was rebuilt."""
        return None if self.best_row is None else self.psnr_db[self.best_row]

    @property
    def best_gain_db(self) -> float | None:
        """The largest gain over the floor; None where no image was rebuilt."""
        return None if self.best_row is None else self.gains_db[self.best_row]


@dataclass(frozen=True)
class Attempt:
    """One attack on one victim: how it ended, what it cost, how near it came.

    `loss` is what it minimised at its end, None where there was nothing to minimise. `facts` are the
    finding's; those that are not finite are left out.
    """

    attack: str
    ended: Ending
    seconds: float
    score: Score
    loss: float | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss is not None and not isfinite(self.loss):
            object.__setattr__(self, "loss", None)
        kept = {name: float(value) for name, value in self.facts.items() if isfinite(value)}
        object.__setattr__(self, "facts", kept)


@dataclass(frozen=True)
class Rows:
    """Images (n, channels, height, width) in [0, 1], or tokens (n, length), that JSON can carry."""

    shape: tuple[int, ...]
    kind: Literal["pixels", "tokens"]
    content: bytes  # little-endian float32, or int32

    def __post_init__(self) -> None:
        if len(self.content) != 4 * int(np.prod(self.shape)):
            raise AuditError(
                f"{len(self.content)} bytes for rows of shape {self.shape}; expected 4 bytes a number"
            )

    @classmethod
    def of(cls, values: NDArray) -> "Rows":
        """The rows of an array: integers are tokens, everything else pixels."""
        tokens = values.dtype.kind in "iu"
        content = np.ascontiguousarray(values, "<i4" if tokens else "<f4").tobytes()
        return cls(tuple(values.shape), "tokens" if tokens else "pixels", content)

    @property
    def array(self) -> NDArray:
        """The rows as float32 or int32."""
        return np.frombuffer(self.content, "<i4" if self.kind == "tokens" else "<f4").reshape(self.shape)


@dataclass(frozen=True)
class Samples:
    """Rows of the truth beside what became of them, in one order; what `redacted` leaves out.

    `psnr_db` are of `rebuilt`, `floor` and `control`, a row; empty for tokens. A row that was not rebuilt
    is the floor's guess with a PSNR of None.
    """

    attack: str
    original: Rows | None
    rebuilt: Rows | None
    floor: Rows | None
    control: Rows | None = None
    rebuilt_psnr_db: tuple[float | None, ...] = ()
    floor_psnr_db: tuple[float, ...] = ()
    control_psnr_db: tuple[float | None, ...] = ()

    def redacted(self) -> "Samples":
        """The same without a single original or rebuilt row; numbers and the floor's guess stay."""
        return replace(self, original=None, rebuilt=None, control=None)


@dataclass(frozen=True)
class Trial:
    """One victim, and each attack on what it sent.

    `partition` are those that were summed, one where nothing was; `skipped` says why an attack was not
    tried, by its name.
    """

    partition: tuple[int, ...]
    seed: int
    rows: int
    wire_bytes: int
    attempts: tuple[Attempt, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    samples: Samples | None = None

    def redacted(self) -> "Trial":
        """The same without a single original or rebuilt row."""
        return replace(self, samples=None if self.samples is None else self.samples.redacted())
