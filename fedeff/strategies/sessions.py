"""Names of cycles that no two starts of a strategy share.

What clients keep outlives `Strategy.start`, and every start counts its rounds from 1. Were a cycle
known by its first round alone, a second start would be answered with replays of the first.
"""

import secrets

__all__ = ["cycle_name", "new_session"]

_ROUND_BITS = 32
_SESSIONS = 2**30  # with the round's bits within Flower's signed 64


def new_session() -> int:
    """The number of one start, above 0.

    From the operating system, not from a seed: a start that is repeated must get another one. Names
    of cycles depend on it, no weight does. 0 is for rounds that are played without a start, such as
    those of a run that can be resumed, whose checkpoints are to have the same bytes every time.
    """
    return 1 + secrets.randbelow(_SESSIONS - 1)


def cycle_name(session: int, server_round: int) -> int:
    """What clients know the cycle (or epoch) by that a round of a start begins.

    >>> cycle_name(0, 7), cycle_name(1, 7)
    (7, 4294967303)
    """
    return session << _ROUND_BITS | server_round
