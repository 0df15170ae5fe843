"""What an attacker makes of a view who does not know of the defence: every number at its word."""

from dataclasses import replace

import numpy as np

from fedeff.audit.view import ServerView, Told

__all__ = ["is_plain", "naive"]


def naive(view: ServerView) -> ServerView:
    """The view as if every entry were known exactly; what did not come counts as 0."""
    exchanges = tuple(
        replace(one, told={name: _at_its_word(told) for name, told in one.told.items()})
        for one in view.exchanges
    )
    return replace(view, exchanges=exchanges)


def is_plain(view: ServerView) -> bool:
    """Whether there is nothing to know of: all entries came, exactly."""
    told = [one for exchange in view.exchanges for one in exchange.told.values()]
    return all(bool(one.mask.all()) and not np.any(one.std) for one in told)


def _at_its_word(told: Told) -> Told:
    return Told(np.where(told.mask, told.values, 0.0))
