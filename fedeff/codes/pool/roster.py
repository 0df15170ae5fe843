"""Who is in the pool, who is idle, and who can do which tasks."""

from collections.abc import Hashable, Sequence

from fedeff.codes.code import Code
from fedeff.codes.pool.items import OWN
from fedeff.core.errors import ConfigError

__all__ = ["Roster"]


class Roster:
    """Actors in lanes: `OWN` for those that were given as actors, others for those given for parities.

    Where the code has parity models, an actor of lane `i` holds the `i`-th and does nothing else.
    Otherwise all hold the same function: those for parities do items too when they are idle, and those
    for items do parities where no actor for parities is left. A code that is not systematic knows no
    difference at all.
    """

    def __init__(self, code: Code, actors: Sequence[Hashable], parity_actors: Sequence[Hashable]) -> None:
        models = len(getattr(code, "parity_models", ()))
        if models and len(parity_actors) < models:
            raise ConfigError(
                f"{len(parity_actors)} parity actors for a code with {models} parity models; "
                "give one actor for each model, in their order"
            )
        self._models = models
        self._coded = not code.systematic
        self._lanes: dict[Hashable, int] = {}
        self._idle: list[Hashable] = []  # longest idle first
        for actor in actors:
            self.add(actor, OWN)
        for i, actor in enumerate(parity_actors):
            self.add(actor, i)

    def __contains__(self, actor: Hashable) -> bool:
        return actor in self._lanes

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def lane(self, parity: int) -> int:
        """The lane of parity `parity`, of tasks and of actors."""
        if self._coded:
            return OWN
        return parity % self._models if self._models else 0

    def add(self, actor: Hashable, parity: int) -> None:
        """Takes in an actor, idle: for items with `OWN`, else for that parity.

        Raises:
            ValueError: if it is there already.
        """
        if actor in self._lanes:
            raise ValueError("Actor already belongs to current CodedActorPool")
        self._lanes[actor] = OWN if parity == OWN else self.lane(parity)
        self._idle.append(actor)

    def remove(self, actor: Hashable) -> None:
        """Forgets an actor, busy or idle."""
        self._lanes.pop(actor, None)
        if actor in self._idle:
            self._idle.remove(actor)

    def free(self, actor: Hashable) -> None:
        """An actor is idle again; nothing happens where it has left."""
        if actor in self._lanes:
            self._idle.append(actor)

    def serves(self, lane: int) -> bool:
        """Whether any actor, busy or idle, may do tasks of this lane."""
        return any(self._may(actor, lane) for actor in self._lanes)

    def idle(self, lane: int) -> bool:
        """Whether an actor that may do tasks of this lane is idle."""
        return any(self._may(actor, lane) for actor in self._idle)

    def own_idle(self) -> bool:
        """Whether an actor given for items is idle."""
        return any(self._lanes[actor] == OWN for actor in self._idle)

    def take(self, lane: int, tried: set[Hashable], strict: bool) -> Hashable | None:
        """The actor for a task, busy from now on: of its own lane and untried if possible.

        With `strict` of its own lane, or none.
        """
        able = [actor for actor in self._idle if self._may(actor, lane)]
        if strict:
            able = [actor for actor in able if self._lanes[actor] == lane]
        if not able:
            return None
        chosen = min(able, key=lambda actor: (actor in tried, self._lanes[actor] != lane))
        self._idle.remove(chosen)
        return chosen

    def take_own(self) -> Hashable | None:
        """An idle actor for items, which leaves the pool."""
        for actor in self._idle:
            if self._lanes[actor] == OWN:
                self.remove(actor)
                return actor
        return None

    def _may(self, actor: Hashable, lane: int) -> bool:
        its = self._lanes[actor]
        if its == lane:
            return True
        if self._models:
            return False
        return lane == OWN or not any(other == lane for other in self._lanes.values())
