"""Several rounds of one client: attacked together where they are on the same rows, else one by one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedeff.audit.finding import Finding
from fedeff.audit.view import NDArray, ServerView

__all__ = ["joined", "shown_to"]


def shown_to(view: ServerView, obstacle: Callable[[ServerView], str | None]) -> tuple[ServerView, ...]:
    """The views that an attack is tried on to make the most of all rounds that were seen; maybe none.

    Rounds on the same rows stay together, as stochastic codecs and noise average out; where an attack has an
    obstacle to that, it is the first round that it can be tried on. Rounds on different rows are views of
    their own. `obstacle` says why the attack cannot be tried on a view.
    """
    if (view.same_rows or len(view.exchanges) == 1) and obstacle(view) is None:
        return (view,)
    alone = [replace(view, exchanges=(one,), same_rows=True) for one in view.exchanges]
    open_to_it = tuple(one for one in alone if obstacle(one) is None)
    return open_to_it[:1] if view.same_rows else open_to_it


def joined(findings: Sequence[Finding]) -> Finding:
    """All that an attack found in rounds on different rows, as one finding.

    The loss is the largest, the seconds are added up; labels are told where each round's are, and beside
    inputs only where there is one for each.
    """
    first = findings[0]
    if len(findings) == 1:
        return first
    inputs, labels = (_all_of([getattr(one, name) for one in findings]) for name in ("inputs", "labels"))
    if inputs is not None and labels is not None and len(inputs) != len(labels):
        labels = None
    return Finding(
        first.attack,
        inputs,
        labels,
        max((one.loss for one in findings if not math.isnan(one.loss)), default=math.nan),
        all(one.converged for one in findings),
        sum(one.seconds for one in findings),
        {name: sum(one.facts.get(name, 0.0) for one in findings) for name in first.facts},
    )


def _all_of(found: Sequence[NDArray | None]) -> NDArray | None:
    """The arrays that there are, one after the other; None where there is none."""
    there = [one for one in found if one is not None]
    return np.concatenate(there) if there else None
