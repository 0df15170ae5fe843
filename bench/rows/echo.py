"""Echo clients: messages a second and memory where clients do nothing but return `x + 1` on 100 kB."""

from typing import Any

from bench.figures import Figure, Results, Spread
from bench.harness import Case, python
from bench.rows.row import Row, Settings

__all__ = ["echo"]

_NODES = (1000, 5000, 10_000)
_ENGINES = ("ray", "inline")
_NOTE = (
    "Peak memory is the largest sum of PSS over all processes of the run (Ray's daemons too), sampled "
    "every 0.1 s in a run that is not timed. The target is on the peak less the array bytes of the one "
    "round of replies that the app holds. Growth compares the sum at the end of rounds, the replies "
    "still held: the median of rounds 4 to 6 and of rounds 48 to 50. "
)


def echo(settings: Settings) -> Row:
    """The row of echo clients; with `settings.full` Flower's engine at 10,000 nodes too."""
    cases = (*_timed(settings), *_memory(settings))
    title = "Echo: 100 kB, every node in every round"
    return Row("echo", title, cases, ("flower-1000",), _figures, _NOTE)


def _command(settings: Settings, engine: str, nodes: int, rounds: int, *more: str) -> tuple[str, ...]:
    arguments = (f"engine={engine}", f"nodes={nodes}", f"rounds={rounds}", f"workers={settings.workers}")
    return python("-m", "bench.case", "echo", *arguments, *more)


def _timed(settings: Settings) -> list[Case]:
    rounds = dict.fromkeys(_NODES, 3) if settings.quick else {1000: 9, 5000: 4, 10_000: 3}

    def case(engine: str, nodes: int, label: str, rounds: int, repeats: int | None = None) -> Case:
        command = _command(settings, engine, nodes, rounds)
        return Case(f"{engine}-{nodes}", f"{label}, {nodes:,} nodes", command, nodes, repeats)

    ours = [case(engine, nodes, f"fedeff {engine}", rounds[nodes]) for nodes in _NODES for engine in _ENGINES]
    flower = [case("flower", 1000, "Flower's engine", 3, repeats=2)]
    if settings.full:
        flower.append(case("flower", 10_000, "Flower's engine", 2, repeats=1))
    return ours + flower


def _memory(settings: Settings) -> list[Case]:
    def case(engine: str, nodes: int, rounds: int, repeats: int) -> Case:
        command = _command(settings, engine, nodes, rounds)
        label = "Flower's engine" if engine == "flower" else f"fedeff {engine}"
        return Case(
            f"{engine}-{nodes}-memory", f"{label}, {nodes:,} nodes", command, repeats=repeats, memory=True
        )

    def growth(engine: str) -> Case:
        command = _command(settings, engine, 1000, 50, "memory=1")
        label = f"fedeff {engine}, 1,000 nodes, 50 rounds"
        return Case(f"{engine}-1000-growth", label, command, repeats=1, memory=True)

    peaks = [case(engine, 10_000, rounds=3, repeats=2) for engine in _ENGINES]
    small = [case(engine, 1000, rounds=3, repeats=1) for engine in ("ray", "flower")]
    return [*peaks, *small, *map(growth, _ENGINES)]


def _figures(results: Results) -> list[Figure]:
    return [figure for engine in _ENGINES for figure in _of_engine(results, engine)]


def _of_engine(results: Results, engine: str) -> list[Figure]:
    seconds = results.spread(f"{engine}-10000")
    rate = seconds and seconds.map(lambda s: 10_000 / s)
    slower = results.ratio(f"{engine}-1000", f"{engine}-10000")
    flat = slower and slower.map(lambda ratio: ratio * 10)
    above = results.spread(f"{engine}-10000-memory", _above_replies_gb)
    growth = results.spread(f"{engine}-1000-growth", _growth_percent)
    return [
        Figure(f"{engine}: rate at 10,000 nodes", rate, at_least=2500, unit="messages/s", digits=0),
        Figure(f"{engine}: rate at 10,000 ÷ at 1,000 nodes", flat, at_least=0.8),
        Figure(f"{engine}: peak memory above the app's replies", above, at_most=1.2, unit="GB"),
        Figure(f"{engine}: memory, round 5 to 50", growth, at_most=5.0, unit="%", digits=1),
    ]


def _above_replies_gb(sample: dict[str, Any]) -> float:
    return float(sample["peak_bytes"] - sample["held_bytes"]) / 1e9


def _growth_percent(sample: dict[str, Any]) -> float:
    pss = sample["round_pss_bytes"]
    early, late = Spread(tuple(pss[3:6])), Spread(tuple(pss[-3:]))
    return 100 * (late.median / early.median - 1)
