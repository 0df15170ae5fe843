"""FedAvg or FedLAMA over the built-in client: seconds a round, and what the clients keep between rounds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from bench.apps.clock import RoundClock
from bench.processor import own_cpu_s
from fedeff.core.layers import group_layers
from fedeff.models import build
from fedeff.strategies import FedAvg, FedLAMA
from fedeff.strategies.fedavg import FoldPlace

__all__ = ["ROUNDS_PER_SAMPLE", "RoundCheck", "sample_means", "server", "strategy"]

ROUNDS_PER_SAMPLE = 4  # whole cycles at phi 2 and 4: a cycle's rounds carry more or fewer layers


def strategy(phi: int, cohort: int, fold: FoldPlace) -> FedAvg:
    """FedLAMA with that `phi`; FedAvg for 0."""
    return FedLAMA(phi=phi, cohort=cohort, fold=fold) if phi else FedAvg(cohort=cohort, fold=fold)


@dataclass
class RoundCheck:
    """Raises where a round left a client out; counts what the rounds were, and their processor time.

    A client that had lost its state in mid-cycle would ask for the whole model: so each of them kept it.
    """

    strategy: FedAvg
    partial_rounds: int = 0  # that averaged a part of the layers
    cpu_s: list[float] = field(default_factory=list)  # of all processes so far, from the warm-up's end on

    def __call__(self, server_round: int, arrays: ArrayRecord) -> None:
        left_out = [*self.strategy.refused, *self.strategy.failed, *self.strategy.need_full]
        if left_out:
            raise RuntimeError(f"round {server_round} left out {len(left_out)}, the first: {left_out[0]}")
        averaged = len(self.strategy.synchronised)
        self.partial_rounds += server_round > 0 and averaged < len(group_layers(arrays))
        if server_round >= ROUNDS_PER_SAMPLE:
            self.cpu_s.append(own_cpu_s())

    @property
    def cpu_s_per_round(self) -> float | None:
        """Processor seconds a round after the warm-up, of all processes; None where no round came after."""
        rounds = len(self.cpu_s) - 1
        return (self.cpu_s[-1] - self.cpu_s[0]) / rounds if rounds > 0 else None


def server(strategy: FedAvg, name: str, rounds: int) -> tuple[ServerApp, RoundClock, RoundCheck]:
    """A ServerApp that runs the strategy on a model; the clock that times its rounds; their check."""
    app, check = ServerApp(), RoundCheck(strategy)
    clock = RoundClock(check)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord(build(name).state_dict())
        strategy.start(grid, initial, num_rounds=rounds, evaluate_fn=clock)

    return app, clock, check


def sample_means(seconds: Sequence[float]) -> list[float]:
    """Mean seconds a round of each `ROUNDS_PER_SAMPLE` rounds but the first, which warm up.

    `seconds` are those of a RoundClock, which leaves the very first round out.
    """
    measured = seconds[ROUNDS_PER_SAMPLE - 1 :]
    starts = range(0, len(measured) - ROUNDS_PER_SAMPLE + 1, ROUNDS_PER_SAMPLE)
    return [statistics.mean(measured[start : start + ROUNDS_PER_SAMPLE]) for start in starts]
