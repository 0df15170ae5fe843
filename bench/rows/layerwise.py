"""What FedLAMA's clients cost that keep their layers: seconds a round beside FedAvg, memory of many."""

from collections.abc import Callable
from typing import Any

from bench.figures import Figure, Results, Spread
from bench.harness import Case, python
from bench.rows.row import Row, Settings

__all__ = ["many_clients", "round_cost"]

_CLIENTS = 10_000
_PHIS = (2, 4)
_FOLDS = {"server": "a reply each", "workers": "folded on the workers"}
_COST_NOTE = (
    "A sample is the mean of four rounds, which are whole cycles; the first four warm up. In every round "
    "all 100 clients answered and none asked for the whole model, so each had kept its layers. Processor "
    "time is that of all processes of the run; other work on the machine disturbs it less. "
)
_MANY_NOTE = (
    "Every client is in every cohort, and so keeps its layers. Peak memory is the largest sum of PSS over "
    "all processes of the run (Ray's daemons and its object store too), sampled every 0.1 s. "
)


def round_cost(settings: Settings, fold: str) -> Row:
    """FedLAMA's round on the yardstick CNN beside FedAvg's, with replies as `fold` says."""
    rounds = 8 if settings.quick else 24

    def case(name: str, label: str, phi: int) -> Case:
        command = _command(settings, "cnn", 1000, 100, rounds, fold, phi)
        return Case(name, label, command, skip=settings.without_data)

    # FedAvg between the two that are divided by it: a shared machine may run half as fast a minute later.
    two, four = (case(f"fedlama-{phi}", f"FedLAMA, phi={phi}", phi) for phi in _PHIS)
    cases = (two, case("fedavg", "FedAvg", 0), four)
    title = f"FedLAMA's round: CNN, 1,000 clients, 100 a round, {_FOLDS[fold]}"
    return Row(f"round-{fold}", title, cases, ("fedavg",), _cost_figures, _COST_NOTE)


def many_clients(settings: Settings) -> Row:
    """Memory of a run in which 10,000 clients keep their layers."""
    rounds = 2 if settings.quick else 4

    def case(name: str, label: str, phi: int) -> Case:
        command = _command(settings, "mlp", _CLIENTS, _CLIENTS, rounds, "server", phi)
        return Case(name, label, command, repeats=1, memory=True, skip=settings.without_data)

    cases = (case("fedlama", "FedLAMA, phi=2", 2), case("fedavg", "FedAvg, which keeps nothing", 0))
    title = f"{_CLIENTS:,} clients that keep their layers: MLP, all in every round"
    return Row("many-clients", title, cases, (), _memory_figures, _MANY_NOTE)


def _command(
    settings: Settings, model: str, clients: int, cohort: int, rounds: int, fold: str, phi: int
) -> tuple[str, ...]:
    shape = (f"model={model}", f"clients={clients}", f"cohort={cohort}", f"rounds={rounds}")
    how = (f"fold={fold}", f"phi={phi}", f"workers={settings.workers}")
    return python("-m", "bench.case", "layerwise", *shape, *how)


def _cost_figures(results: Results) -> list[Figure]:
    return [figure for phi in _PHIS for figure in _of_phi(results, phi)]


def _of_phi(results: Results, phi: int) -> tuple[Figure, ...]:
    name, what = f"fedlama-{phi}", f"FedLAMA phi={phi}"
    seconds, work = results.ratio(name, "fedavg"), results.ratio(name, "fedavg", _read("cpu_s"))
    kept = results.spread(name, _read("clients_with_state"))
    return (
        Figure(f"{what} ÷ FedAvg", seconds, at_most=1.15),
        Figure(f"{what} ÷ FedAvg, processor time", work),
        Figure(f"{what}: clients that hold layers at the end", kept, unit="clients", digits=0),
    )


def _memory_figures(results: Results) -> list[Figure]:
    def read(key: str, scale: float = 1.0) -> Spread | None:
        return results.spread("fedlama", _read(key, scale))

    with_state = read("clients_with_state")
    bound_gb = 256 * 2**20 / 1e9  # of a StateStore, unless told otherwise
    return [
        Figure("peak memory of all processes", read("peak_bytes", 1e-9), at_most=4.0, unit="GB"),
        Figure("clients that hold layers", with_state, at_least=_CLIENTS, unit="clients", digits=0),
        Figure("their states in memory", read("state_memory_bytes", 1e-9), at_most=bound_gb, unit="GB"),
        Figure("their states on disk", read("state_disk_bytes", 1e-9), unit="GB"),
    ]


def _read(key: str, scale: float = 1.0) -> Callable[[dict[str, Any]], float]:
    return lambda sample: float(sample[key]) * scale
