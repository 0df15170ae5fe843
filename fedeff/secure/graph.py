"""Who shares secrets and masks with whom: everyone, or a few in a random circle (SecAgg+)."""

from functools import lru_cache

import numpy as np

from fedeff.secure.terms import Terms

__all__ = ["holders_of", "neighbours_of"]


def neighbours_of(number: int, terms: Terms, session: bytes) -> tuple[int, ...]:
    """The other clients, ascending, that client `number` shares with; the relation is symmetric.

    With fewer neighbours than others: those up to half as many places away on either side of a circle,
    in which clients stand in an order drawn from the session's name (Bell et al., eprint 2020/704,
    algorithm 1: a Harary graph under a random renaming).
    """
    if terms.neighbours == terms.clients - 1:
        return tuple(other for other in range(1, terms.clients + 1) if other != number)
    circle = _circle(terms.clients, session)
    place, reach = circle.index(number), terms.neighbours // 2
    steps = [*range(-reach, 0), *range(1, reach + 1)]
    return tuple(sorted(circle[(place + step) % terms.clients] for step in steps))


def holders_of(number: int, terms: Terms, session: bytes) -> tuple[int, ...]:
    """Who holds shares of the secrets of client `number`: its neighbours and itself, ascending."""
    return tuple(sorted((number, *neighbours_of(number, terms, session))))


@lru_cache(maxsize=8)
def _circle(clients: int, session: bytes) -> tuple[int, ...]:
    rng = np.random.Generator(np.random.Philox(int.from_bytes(session, "little")))
    return tuple((rng.permutation(clients) + 1).tolist())
