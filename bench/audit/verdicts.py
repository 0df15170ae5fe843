"""Whether a verdict depends on the seed: three configurations of which everybody knows the answer."""

import time
from collections.abc import Mapping, Sequence

from bench.audit.tried import CPU_S, WALL_S, spread
from bench.figures import Figure, Spread
from bench.seeded.row import Case, Measured, Row, Value
from fedeff.app import Settings
from fedeff.audit import audit_leak
from fedeff.audit.defences.table import defence_of

__all__ = ["row"]

_CLIENTS = 100
_TIER = "quick"
_MODEL = "mlp"
_ATTACKS = ("labels", "phong", "levenberg-marquardt")  # those of the tier that take a second at most
_DEFENCES = {  # and on how many victims for each seed
    "open": ("none", 3),
    "local DP, epsilon 1": ("local_dp(1)", 60),  # as many as a PASS takes
    "secure aggregation of 50": ("secure(50)", 3),
}
_OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE")


def row() -> Row:
    """An audit of each configuration for each seed."""
    settings: Mapping[str, Value] = {
        "clients": _CLIENTS,
        "tier": _TIER,
        "model": _MODEL,
        "attacks": str(_ATTACKS),
        "defences": str(_DEFENCES),
    }
    return Row(
        "verdicts",
        "Verdicts from seed to seed",
        settings,
        _run,
        _figures,
        _NOTE,
        seeds=range(10),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    return {name: _audited(defence, trials, seed) for name, (defence, trials) in _DEFENCES.items()}


def _audited(defence: str, trials: int, seed: int) -> Case:
    base = Settings(
        dataset="digits", model=_MODEL, partition="iid", batch_size=1, local_steps=1, cohort=20, seed=seed
    )
    settings = defence_of(defence).settings(base)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    result = audit_leak(settings, clients=_CLIENTS, tier=_TIER, attacks=_ATTACKS, trials=trials, processes=1)
    outcomes: Mapping[str, float] = {
        f"{name}, %": 100.0 * (result.verdict.outcome == name) for name in _OUTCOMES
    }
    return {
        **outcomes,
        CPU_S: time.process_time() - began_cpu_s,
        WALL_S: time.perf_counter() - began_s,
    }


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = []
    for case in seeds[0]:
        counts = {name: _count(seeds, case, name) for name in _OUTCOMES}
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        flips = Spread((float(min(counts["PASS"], counts["FAIL"])),))
        found.append(Figure(f"{case}: flips ({told})", flips, at_most=0, unit="seeds", digits=0))
        found.append(Figure(f"{case}: CPU seconds", spread(seeds, case, CPU_S), unit="s"))
    return found


def _count(seeds: Sequence[Measured], case: str, outcome: str) -> int:
    return sum(bool(one[case][f"{outcome}, %"]) for one in seeds if case in one)


_NOTE = f"""The built-in {_MODEL} on digits, one row and one step, {_CLIENTS} clients, a curious server, of
tier {_TIER} the attacks {", ".join(_ATTACKS)}. A flip is a PASS for one
seed and a FAIL for another. A PASS takes 59 victims:
{", ".join(f"{name} {trials}" for name, (_, trials) in _DEFENCES.items())} for each seed, so that only
local DP can have one here, and a sum that does not leak is INCONCLUSIVE. By chance alone less than 1% of
audits fail: that what was rebuilt points at its row is tested at alpha 0.01, over all attacks together."""
