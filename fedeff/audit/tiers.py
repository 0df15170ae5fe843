"""How hard an audit tries: which attacks, on how many victims, for how long.

Iterations end an attack before its seconds do, on a machine that is not overloaded: so a seed gives the
same result anywhere. The seconds are a net under that; an attack that falls into it counts as not ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from fedeff.audit.attacks.table import attack_of
from fedeff.audit.finding import Attack
from fedeff.audit.view import ServerView
from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["Effort", "Tier", "efforts_of", "tier_names", "tier_of"]

Value = int | float
Task = Literal["classify", "next-character"]
Threat = Literal["curious", "informed", "malicious"]


@dataclass(frozen=True)
class Effort:
    """One attack as a tier tries it: fields of the attack that differ, and seconds for one victim.

    Where an update hides more than `most_unknowns` numbers it would need far more than these seconds, and is
    not tried; 0: always tried.
    """

    attack: str
    seconds: float
    options: Mapping[str, Value] = field(default_factory=dict)
    most_unknowns: int = 0

    def made(self) -> Attack:
        """The attack with these options. Raises ConfigError for an unknown name."""
        attack: Any = attack_of(self.attack)  # a frozen dataclass, as all attacks are
        made: Attack = replace(attack, **self.options)
        return made

    def obstacle(self, view: ServerView) -> str | None:
        """Why it is not tried on this view, in one line; None where it is."""
        unknowns = view.first.rows * prod(view.public.input_shape)
        if self.most_unknowns and unknowns > self.most_unknowns:
            return (
                f"{unknowns:,} numbers are hidden, and this tier tries it up to {self.most_unknowns:,}; "
                "take a higher --tier"
            )
        return self.made().obstacle(view)


@dataclass(frozen=True)
class Tier:
    """How much is tried of what.

    `trials` victims where an update hides at most `few_unknowns` numbers, `dear_trials` where more;
    `controls` without the defence, `worst_case` by an attacker who also knows the labels. `images` and
    `text` are tried on what fits them; of an attack that is asked for by name and is in neither,
    `seconds` on each victim. Where something leaks, changes are tried on `fix_trials` victims each, and
    none is begun after `fix_seconds`. Each attack on a layer alone, or on a level of noise, has
    `map_seconds`; 0: these are not tried.
    """

    name: str
    trials: int
    dear_trials: int
    controls: int
    worst_case: int
    seconds: float
    images: tuple[Effort, ...]
    text: tuple[Effort, ...]
    fix_trials: int = 0
    fix_seconds: float = 0.0
    map_seconds: float = 0.0
    few_unknowns: int = 4096

    def trials_for(self, unknowns: int) -> int:
        """How many victims to try where an update hides so many numbers."""
        return self.trials if unknowns <= self.few_unknowns else self.dear_trials


_QUICK = Tier(
    "quick",
    trials=8,
    dear_trials=3,
    controls=2,
    worst_case=2,
    seconds=10.0,
    images=(
        Effort("labels", 2.0),
        Effort("phong", 2.0),
        Effort("r-gap", 20.0),
        Effort("levenberg-marquardt", 10.0, {"restarts": 4}, most_unknowns=4096),
        Effort("inverting-gradients", 10.0, {"iterations": 300, "restarts": 1}, most_unknowns=4096),
    ),
    text=(Effort("labels", 2.0), Effort("embedding-rows", 2.0), Effort("dager", 15.0)),
)
_STANDARD = Tier(
    "standard",
    trials=60,
    dear_trials=12,
    controls=6,
    worst_case=6,
    fix_trials=3,
    fix_seconds=600.0,
    map_seconds=60.0,
    seconds=60.0,
    images=(
        Effort("labels", 5.0),
        Effort("phong", 5.0),
        Effort("r-gap", 60.0),
        Effort("levenberg-marquardt", 60.0, {"restarts": 8}),
        Effort("inverting-gradients", 120.0),
    ),
    text=(
        Effort("labels", 5.0),
        Effort("embedding-rows", 5.0),
        Effort("dager", 60.0),
        Effort("tag", 60.0),
    ),
)
_DEEP = replace(
    _STANDARD,
    name="deep",
    trials=120,
    dear_trials=60,
    controls=10,
    worst_case=20,
    fix_trials=6,
    fix_seconds=3600.0,
    map_seconds=120.0,
    seconds=600.0,
    images=(
        *(replace(one, seconds=600.0) for one in _STANDARD.images),
        Effort("dlg", 300.0),
        Effort("spear", 600.0),
    ),
    text=tuple(replace(one, seconds=600.0) for one in _STANDARD.text),
)
_TIERS = {tier.name: tier for tier in (_QUICK, _STANDARD, _DEEP)}


def tier_names() -> tuple[str, ...]:
    """The names that `tier_of` knows, from quick to deep."""
    return tuple(_TIERS)


def tier_of(name: str) -> Tier:
    """The tier of this name. Raises ConfigError for an unknown name."""
    if name not in _TIERS:
        raise unknown_name("tier", name, _TIERS)
    return _TIERS[name]


def efforts_of(tier: Tier, task: Task, threat: Threat, named: Sequence[str] = ()) -> tuple[Effort, ...]:
    """What a tier tries on such data: the attacks that were named, else its own for the task.

    Raises:
        ConfigError: for an unknown name, or one that is named twice.
    """
    own = tier.images if task == "classify" else tier.text
    if threat == "malicious":
        own = (*own, Effort("imprint", tier.seconds))
    if not named:
        return own
    if len(set(named)) < len(named):
        raise ConfigError(f"attack {max(named, key=list(named).count)!r} is named twice; name each once")
    known = {one.attack: one for one in (*tier.images, *tier.text, *own)}
    chosen = tuple(known.get(name, Effort(name, tier.seconds)) for name in named)
    for one in chosen:
        one.made()
    return chosen
