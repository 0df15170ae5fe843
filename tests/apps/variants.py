"""Every strategy that has a name, set so that a few rounds of a small model show what it does."""

from typing import Any

from fedeff.app.settings import Settings
from fedeff.strategies import strategy_names

# One that is not here runs on its defaults, so a new strategy is among the variants from the start.
_SMALL: dict[str, dict[str, Any]] = {
    "partial": {"groups": 2},
    "post-local": {"switch-round": 2, "later-steps": 3},
    "hierarchical": {"topology": "2", "global-every": 2},
    "adaptive-update": {"cycle-rounds": 4, "c-max": 2},
    "adaptive-batch": {"grow-every": 2, "largest-batch-size": 32},
    "two-phase": {"curvature-every": 3, "curvature-clients": 4, "power-iterations": 3, "warmup-rounds": 2},
    "fedbuff": {"buffer": 4},
}
_MORE: dict[str, dict[str, Any]] = {
    "fedlama strict": {"rule": "strict"},
    "partial overlapped": {"groups": 2, "sweeps": 2, "overlap": True},
    "partial by channel": {"groups": 3, "by": "channel"},
    "diloco in fragments": {"fragments": 2},
}
_COMMON: dict[str, Any] = {
    "dataset": "digits",
    "model": "mlp",
    "partition": "iid",
    "batch-size": 8,
    "local-steps": 2,
    "learning-rate": 0.1,
    "seed": 3,
}

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"strategy": name, **_SMALL.get(name, {})} for name in strategy_names()},
    **{variant: {"strategy": variant.partition(" ")[0], **own} for variant, own in _MORE.items()},
}


_OF_ALL = {"gradient-coding"}  # strategies that ask every client in every round


def cohort_of(variant: str, drawn: int, clients: int) -> int:
    """How many of the clients a round of the variant asks, where others draw so many."""
    return clients if VARIANTS[variant]["strategy"] in _OF_ALL else drawn


def settings_of(variant: str, **changes: Any) -> Settings:
    """The settings of a variant; changes are by snake-case key."""
    kebab = {key.replace("_", "-"): value for key, value in changes.items()}
    return Settings.from_run_config({**_COMMON, **VARIANTS[variant], **kebab})
