"""A strategy of one's own: FedAvg with momentum on the server (FedAvgM, Hsu et al., arXiv:1909.06335).

Run it with `python examples/server_momentum.py`.

`FedAvg` does the cohorts, the sums and the refusals; what is new is one function and one method.
"""

from functools import partial

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.layers import decode_record, encode_record
from fedeff.data import load, split
from fedeff.models import build
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg

Arrays = dict[str, np.ndarray]


def momentum_step(model: Arrays, mean: Arrays, velocity: Arrays, beta: float) -> tuple[Arrays, Arrays]:
    """The next model and velocity: `v <- beta v + (mean - model)`, `model <- model + v`."""
    velocity = {key: beta * velocity.get(key, 0.0) + (mean[key] - old) for key, old in model.items()}
    return {key: old + velocity[key] for key, old in model.items()}, velocity


class ServerMomentum(FedAvg):
    """FedAvg whose server keeps going where the last rounds went."""

    def __init__(self, *, beta: float, cohort: int, evaluate_clients: int) -> None:
        super().__init__(cohort=cohort, evaluate_clients=evaluate_clients)
        self.beta = beta
        self.velocity: Arrays = {}

    def merged(self, model: ArrayRecord, means: ArrayRecord) -> ArrayRecord:
        """The model moved by the velocity."""
        arrays, mean = decode_record(model), decode_record(means)
        arrays, self.velocity = momentum_step(arrays, mean, self.velocity, self.beta)
        return encode_record(arrays)


digits = load("digits")
parts = split(digits, "dirichlet:0.3", clients=50, seed=0)
make_model = partial(build, "mlp", input_shape=digits.input_shape)
client = client_app(
    make_model,
    lambda i, n: ClientData(*digits.train.batch(parts[i]), *digits.test.batch()),
    LocalTraining(batch_size=8),
)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Twenty rounds; one client measures the model on the whole test set."""
    strategy = ServerMomentum(beta=0.7, cohort=10, evaluate_clients=1)
    result = strategy.start(grid, ArrayRecord(make_model().state_dict()), num_rounds=20)
    print(f"accuracy {result.evaluate_metrics_clientapp[20]['eval-accuracy']:.3f}")


if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=50)
