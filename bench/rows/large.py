"""Large models: 44 MB a client through a folding FedAvg, beside sums in one process."""

from typing import Any

from bench.figures import Figure, Results
from bench.harness import Case, python
from bench.rows.row import Row, Settings

__all__ = ["large"]

_FOLDS = ("workers", "server")
_NOTE = (
    "The first two references only add 64 distinct sets of arrays that lie decoded in memory; the third "
    "computes in one process, sending nothing, all that a round computes. FedAvg sums in float64, so "
    "the float64 reference is the one that counts. "
)


def large(settings: Settings) -> Row:
    """The row of large models."""
    cases = (*_references(settings), *_ours(settings))
    title = "Large models: 64 clients a round, 44 MB each"
    return Row("large", title, cases, ("float32", "float64", "same-work"), _figures, _NOTE)


def _references(settings: Settings) -> tuple[Case, ...]:
    def case(name: str, label: str, rounds: int) -> Case:
        command = python("-m", "bench.case", "sums", f"kind={name}", "clients=64", f"rounds={rounds}")
        return Case(name, f"one process: {label}", command)

    rounds = 3 if settings.quick else 5
    return (
        case("float32", "total += array, float32 total, arrays in memory", rounds),
        case("float64", "total += array, float64 total, arrays in memory", rounds),
        case("same-work", "decode, x + 1, encode, decode, add", 2),
    )


def _ours(settings: Settings) -> list[Case]:
    def command(clients: int, fold: str, rounds: int) -> tuple[str, ...]:
        shape = (f"clients={clients}", f"rounds={rounds}", f"workers={settings.workers}")
        return python("-m", "bench.case", "large", "engine=ray", f"fold={fold}", *shape)

    def memory(fold: str, clients: int) -> Case:
        name, label = f"{fold}-{clients}-memory", f"fedeff ray, folded on the {fold}, {clients} clients"
        return Case(name, label, command(clients, fold, 2), repeats=1, memory=True)

    rounds = 2 if settings.quick else 3
    return [
        *(
            Case(fold, f"fedeff ray, FedAvg folded on the {fold}", command(64, fold, rounds))
            for fold in _FOLDS
        ),
        *(memory(fold, clients) for fold in _FOLDS for clients in (32, 128)),
    ]


def _figures(results: Results) -> list[Figure]:
    return [figure for fold in _FOLDS for figure in _of_fold(results, fold)]


def _of_fold(results: Results, fold: str) -> tuple[Figure, Figure]:
    time = results.ratio(fold, "float64")
    memory = results.ratio(f"{fold}-128-memory", f"{fold}-32-memory", _peak)
    return (
        Figure(f"folded on the {fold} ÷ summing in memory (float64)", time, at_most=3.0),
        Figure(f"folded on the {fold}: peak memory, 128 ÷ 32 clients", memory, at_most=1.1),
    )


def _peak(sample: dict[str, Any]) -> float:
    return float(sample["peak_bytes"])
