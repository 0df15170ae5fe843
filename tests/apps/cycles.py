"""Small strategies with cycles, and rounds of them, for tests."""

from apps.cycling import model, play
from flwr.app import ConfigRecord
from hypothesis import strategies as st

from fedeff.strategies.cycles import CycleAvg
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.fedavg import FedAvg
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.partial import PartialAvg

START = model()
LAYERS = ("conv", "fc1", "fc2", "scale")


class Halves(CycleAvg):
    """Cycles of three rounds: conv, then nothing, then everything."""

    def __init__(self, **options):
        super().__init__(rounds_per_cycle=3, **options)

    def due(self, cycle_round):
        return [("conv.weight", "conv.bias"), (), tuple(self.model)][cycle_round]


class Tagged(FedAvg):
    """FedAvg whose messages have the tags that the naive client reads."""

    def configure_train(self, server_round, arrays, config, grid):
        tags = {"cycle": server_round, "cycle-round": 0, "layer-versions": [0] * len(LAYERS)}
        return super().configure_train(server_round, arrays, ConfigRecord({**config, **tags}), grid)


def rounds_of(strategy, grid, rounds, start=START):
    return list(play(strategy, grid, start, rounds))


STRATEGIES = {
    "cycles": lambda **options: Halves(**options),
    "fedlama": lambda **options: FedLAMA(phi=3, **options),
    "partial": lambda **options: PartialAvg(groups=3, **options),
    "partial by channel": lambda **options: PartialAvg(groups=3, by="channel", **options),
    "overlapped": lambda **options: PartialAvg(groups=3, sweeps=2, overlap=True, **options),
    "overlapped, one group": lambda **options: PartialAvg(groups=1, sweeps=6, overlap=True, **options),
    "diloco": lambda **options: DiLoCo(fragments=3, **options),
}
FAULTS = ["request", "reply", "raise", "forget", "stale", "version", "malformed", "nan"]
some_faults = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(1, 12)), st.sampled_from(FAULTS), max_size=25
)
