"""Defences by name: each is a change of the app's settings that anybody can give as `-c key=value`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fedeff.app.settings import Settings
from fedeff.audit.defences.epsilon import multiplier_for
from fedeff.compression import codec_names, codec_of
from fedeff.core.errors import ConfigError, PrivacyError, unknown_name

__all__ = ["Defence", "defence_names", "defence_of", "fix_candidates"]

Value = bool | int | float | str
Changes = Mapping[str, Value]
Rule = Callable[[Settings, tuple[float, ...]], Changes]

_PART = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_LAPLACE_STD = 2.0**0.5  # standard deviation of Laplace noise of scale 1


@dataclass(frozen=True)
class Defence:
    """A change of settings with a name, such as `top_k(0.1)`; joined by + several, such as `clip(1)+fp16`.

    >>> defence_of("batch(32)").changes(Settings())
    {'batch-size': 32}
    """

    name: str
    summary: str
    parts: tuple["_Part", ...] = ()

    def settings(self, base: Settings) -> Settings:
        """The settings with this defence on; the rest stays.

        Raises:
            ConfigError: where it does not go with the other settings.
        """
        return Settings.from_run_config({**base.run_config(), **self.changes(base)})

    def changes(self, base: Settings) -> dict[str, Value]:
        """What `-c key=value` would change of `base`, by key."""
        before, now = base.run_config(), base
        for part in self.parts:
            now = Settings.from_run_config({**now.run_config(), **part.changes(now)})
        return {key: value for key, value in now.run_config().items() if before.get(key) != value}


@dataclass(frozen=True)
class _Kind:
    """What a name means: its numbers with their defaults, the settings that they ask for."""

    numbers: Mapping[str, float | None]  # None: it has to be given
    summary: str
    rule: Rule


@dataclass(frozen=True)
class _Part:
    """One name with its numbers, or a codec."""

    name: str
    numbers: tuple[float, ...] = ()
    codec: str = ""

    def changes(self, base: Settings) -> Changes:
        """The settings that this part changes."""
        if not self.codec:
            return _KINDS[self.name].rule(base, self.numbers)
        spec = f"chain({base.codec}, {self.codec})" if base.codec else self.codec
        codec_of(spec)
        return {"codec": spec}

    @property
    def summary(self) -> str:
        """One line of what it does."""
        if self.codec:
            return f"updates coded by {self.codec}"
        kind = _KINDS[self.name]
        return kind.summary.format(**dict(zip(kind.numbers, self.numbers, strict=True)))


def defence_of(name: str) -> Defence:
    """The defence of this name: those of `defence_names`, with other numbers too, any codec, joined by +.

    Two codecs make a chain, of which the first has to be one that selects, such as top_k.

    >>> defence_of("top_k(0.1)+half").settings(Settings()).codec
    'chain(top_k(0.1), half)'

    Raises:
        ConfigError: for an unknown name, with the nearest known one, or numbers that cannot be.
    """
    parts = tuple(_part_of(text) for text in _split(name))
    seen = [part.name for part in parts if not part.codec]
    twice = sorted({one for one in seen if seen.count(one) > 1})
    if twice:
        raise ConfigError(f"defence {name!r} has {twice[0]} twice; give it once")
    doing = [part for part in parts if part.name != "none"]
    summary = "; ".join(part.summary for part in doing) or _KINDS["none"].summary
    return Defence(name.strip(), summary, tuple(doing))


def defence_names() -> tuple[str, ...]:
    """The defences of the matrix, weakest guarantees first; `defence_of` takes other numbers too."""
    return _MATRIX


def fix_candidates(base: Settings) -> tuple[Defence, ...]:
    """Changes worth trying where settings leak, the cheapest first: by accuracy, then by bytes.

    Only those that change something and go with the other settings. The order is a rule of thumb (local
    work and batches cost no bytes, sums cost bytes and no accuracy, noise costs accuracy); what a fix
    really costs is for the audit to measure.
    """
    found: dict[tuple[tuple[str, Value], ...], Defence] = {}
    for defence in map(defence_of, _FIXES):
        try:
            changes = tuple(defence.changes(base).items())
        except (ConfigError, PrivacyError):  # the latter where dp-accounting is not installed
            continue
        if changes:
            found.setdefault(changes, defence)
    return tuple(found.values())


def _split(name: str) -> Iterator[str]:
    """The parts between the + that are in no brackets."""
    depth, begin = 0, 0
    for place, sign in enumerate(name):
        depth += (sign in "({") - (sign in ")}")
        if sign == "+" and not depth:
            yield name[begin:place]
            begin = place + 1
    yield name[begin:]


def _part_of(text: str) -> _Part:
    match = _PART.fullmatch(text)
    name = match[1].replace("-", "_") if match else text.strip()
    if match and name in _SHORT:
        return _Part(name, codec=_SHORT[name])
    if match and name in codec_names():
        codec_of(text.strip())
        return _Part(name, codec=text.strip())
    if match is None or name not in _KINDS:
        raise unknown_name("defence", name, [*_KINDS, *_SHORT, *codec_names()])
    return _Part(name, _numbers(name, match[2]))


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    wanted = _KINDS[name].numbers
    given = [one for one in (text or "").split(",") if one.strip()]
    example = f"{name}({', '.join(f'{key.upper()}' for key in wanted)})" if wanted else name
    try:
        numbers = [float(one) for one in given]
    except ValueError:
        raise ConfigError(f"defence {name!r} got {text!r}, expected numbers: {example}") from None
    if len(numbers) > len(wanted):
        raise ConfigError(f"defence {name!r} got {len(numbers)} numbers, expected {example}")
    rest = list(wanted.values())[len(numbers) :]
    if None in rest:
        raise ConfigError(f"defence {name!r} lacks a number, expected {example}")
    return (*numbers, *(one for one in rest if one is not None))


def _whole(number: float) -> int | float:
    """A whole number as an int; another one as it is, for the setting to refuse."""
    return int(number) if number == int(number) else number


def _gaussian(base: Settings, numbers: tuple[float, ...]) -> Changes:
    return {
        "local-noise": "gaussian",
        "local-noise-multiplier": numbers[0] / (base.local_clipping_norm or 1.0),
    }


def _laplace(base: Settings, numbers: tuple[float, ...]) -> Changes:
    scale = numbers[0] / _LAPLACE_STD
    return {"local-noise": "laplace", "local-noise-multiplier": scale / (base.local_clipping_norm or 1.0)}


def _clip(base: Settings, numbers: tuple[float, ...]) -> Changes:
    """Clipping as asked for; noise that is there keeps its standard deviation."""
    scale = base.local_noise_multiplier * (base.local_clipping_norm or 1.0)
    changes: dict[str, Value] = {"local-clipping-norm": numbers[0]}
    if scale and numbers[0] > 0:
        changes["local-noise-multiplier"] = scale / numbers[0]
    return changes


def _local_dp(base: Settings, numbers: tuple[float, ...]) -> Changes:
    epsilon, norm = numbers
    return {
        "local-noise": "gaussian",
        "local-clipping-norm": norm,
        "local-noise-multiplier": multiplier_for(epsilon, base),
    }


def _secure(base: Settings, numbers: tuple[float, ...]) -> Changes:
    return {"secure-aggregation": "lightsecagg", "cohort": _whole(numbers[0])}


_KINDS: dict[str, _Kind] = {
    "none": _Kind({}, "updates as they are", lambda base, numbers: {}),
    "gaussian": _Kind(
        {"std": None}, "Gaussian noise of {std:g} on each value, by each client; no guarantee", _gaussian
    ),
    "laplace": _Kind(
        {"std": None}, "Laplace noise of {std:g} on each value, by each client; no guarantee", _laplace
    ),
    "clip": _Kind({"norm": None}, "each client's change clipped to norm {norm:g}", _clip),
    "local_dp": _Kind(
        {"epsilon": None, "norm": 1.0},
        "each client's change clipped to norm {norm:g}, Gaussian noise for epsilon {epsilon:g} over the run",
        _local_dp,
    ),
    "dp_sgd": _Kind(
        {"multiplier": None, "norm": 1.0},
        "each row's gradient clipped to norm {norm:g}, and noise of {multiplier:g} times that on each sum",
        lambda base, numbers: {"dp-sgd-noise-multiplier": numbers[0], "dp-sgd-clipping-norm": numbers[1]},
    ),
    "central": _Kind(
        {"multiplier": None, "norm": 1.0},
        "the server clips changes to norm {norm:g} and adds noise to their sum; it sees them before",
        lambda base, numbers: {"noise-multiplier": numbers[0], "clipping-norm": numbers[1]},
    ),
    "batch": _Kind(
        {"rows": None}, "batches of {rows:g} rows", lambda base, numbers: {"batch-size": _whole(numbers[0])}
    ),
    "local_steps": _Kind(
        {"steps": None},
        "{steps:g} local steps a round",
        lambda base, numbers: {"local-steps": _whole(numbers[0])},
    ),
    "partial": _Kind(
        {"groups": 2.0},
        "a round tells one of {groups:g} groups of layers",
        lambda base, numbers: {"strategy": "partial", "groups": _whole(numbers[0])},
    ),
    "fedlama": _Kind(
        {"phi": 2.0},
        "layers that move little are told every {phi:g} rounds",
        lambda base, numbers: {"strategy": "fedlama", "phi": _whole(numbers[0])},
    ),
    "secure": _Kind({"clients": None}, "only the sum of {clients:g} clients can be read", _secure),
}
_SHORT = {"fp16": "half", "int8": "uniform(8)"}
_MATRIX = (
    "none",
    "fp16",
    "int8",
    "top_k(0.1)",
    "top_k(0.01)",
    "random_k(0.1)",
    "qsgd(7)",
    "tern_grad",
    "sign",
    "power_sgd(2)",
    "batch(32)",
    "local_steps(10)",
    "partial(2)",
    "fedlama",
    "clip(0.1)",
    "gaussian(0.0001)",
    "gaussian(0.001)",
    "gaussian(0.01)",
    "laplace(0.01)",
    "secure(10)",
    "dp_sgd(1)",
    "local_dp(8)",
)
_FIXES = (
    "batch(32)",
    "local_steps(10)",
    "batch(32)+local_steps(10)",
    "secure(10)",
    "secure(50)",
    "tern_grad",
    "tern_grad+local_steps(10)",
    "gaussian(0.01)",
    "dp_sgd(1)",
    "local_dp(8)",
    "local_dp(1)",
)
