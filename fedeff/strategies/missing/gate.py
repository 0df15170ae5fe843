"""Whether an estimate of a client is trusted over a reference, by their errors on labels held out."""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Gate", "Judgement"]


class Judgement(NamedTuple):
    """How wrong two estimates were of one true update that ours was not learned from."""

    node: int
    weight: float  # how much it counts: less, the older it is
    ours: float  # squared error over the truth's squared norm
    reference: float


class Gate:
    """Trusts our estimate of a client where its errors, weighted, are less than the reference's.

    A client without a judgement is judged by those of all clients together; without any nobody is trusted.
    """

    def __init__(self, judgements: Iterable[Judgement] = ()) -> None:
        self._worse: dict[int, float] = {}  # by node, the weighted sum of ours less reference
        for one in judgements:
            worse = one.weight * (one.ours - one.reference)
            self._worse[one.node] = self._worse.get(one.node, 0.0) + worse
        self._all = sum(self._worse.values())

    def trusts(self, node: int) -> bool:
        """Whether our estimate of the client is taken."""
        return self._worse.get(node, self._all) < 0
