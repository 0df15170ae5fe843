"""One round of Flower's legacy SecAgg+ workflow, measured as ours is."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

from bench.secagg.ours import CLIP, MOST_EXAMPLES, PHASES, Costs, update_of
from fedeff.core.layers import payload_bytes
from fedeff.grids.passing import PassingGrid
from fedeff.secure import terms_for
from fedeff.simulation import run_simulation

__all__ = ["measured"]

_PHASES = tuple(PHASES.values())


def measured(clients: int, size: int, lost: frozenset[int], seed: int) -> Costs:
    """The costs of one sum among as many neighbours and with the same threshold as our SecAgg+.

    Raises:
        RuntimeError: where the workflow ends without a result.
    """
    terms, costs, found = terms_for("secagg+", clients), Costs(), list[Any]()
    workflow = SecAggPlusWorkflow(
        num_shares=terms.neighbours + 1,
        reconstruction_threshold=terms.threshold,
        max_weight=float(MOST_EXAMPLES),
        clipping_range=CLIP,
    )
    begin = time.process_time()
    run_simulation(
        _server_app(workflow, size, clients, found),
        _client_app(size, lost, seed, costs),
        clients,
        engine="inline",
        seed=seed,
        meter=lambda grid: _Counting(grid, costs),
    )
    costs.server_s = time.process_time() - begin - costs.clients_s
    if not found:
        raise RuntimeError("Flower's workflow ended without a sum")
    costs.error = float(np.abs(found[0] - _mean(clients, size, lost, seed)).max())
    return costs


class _Counting(PassingGrid):
    """Counts what the records of each exchange hold."""

    def __init__(self, grid: Grid, costs: Costs) -> None:
        super().__init__(grid)
        self._costs, self._exchange = costs, 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = list(self.grid.send_and_receive(sent, timeout=timeout))
        if self._exchange < len(_PHASES):
            answers = [reply.content for reply in replies if reply.has_content()]
            asked = [message.content for message in sent]
            models = sum(payload_bytes(content) for content in asked)  # on their way down: not counted
            total = sum(map(_bytes_of, (*asked, *answers))) - models
            self._costs.bytes[_PHASES[self._exchange]] = total
        self._exchange += 1
        return replies


def _bytes_of(content: RecordDict) -> int:
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(_value_bytes(value) for value in record.values())
    return total


def _value_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(value) if isinstance(value, bytes | str) else 8


def _client_app(size: int, lost: frozenset[int], seed: int, costs: Costs) -> ClientApp:
    class Sends(NumPyClient):
        def __init__(self, number: int) -> None:
            self.update = update_of(number, size, seed)

        def fit(self, parameters: Any, config: Any) -> tuple[Any, int, dict[str, Any]]:
            return [self.update.arrays["w"]], int(self.update.weight), {}

    def timed(
        message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        number = int(context.node_config["partition-id"]) + 1
        begin = time.process_time()
        if number in lost and message.content[RECORD_KEY_CONFIGS]["stage"] == Stage.COLLECT_MASKED_VECTORS:
            raise RuntimeError("lost")
        try:
            return call_next(message, context)
        finally:
            costs.clients_s += time.process_time() - begin

    return ClientApp(
        client_fn=lambda context: Sends(int(context.node_config["partition-id"]) + 1).to_client(),
        mods=[timed, secaggplus_mod],
    )


def _server_app(workflow: Any, size: int, clients: int, found: list[Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        class Keeping(FedAvg):
            def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
                parameters, metrics = super().aggregate_fit(server_round, results, failures)
                if parameters is not None:
                    found[:] = parameters_to_ndarrays(parameters)
                return parameters, metrics

        strategy = Keeping(
            fraction_evaluate=0.0,
            min_available_clients=clients,
            initial_parameters=ndarrays_to_parameters([np.zeros(size, np.float32)]),
        )
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=strategy)
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)

    return app


def _mean(clients: int, size: int, lost: frozenset[int], seed: int) -> Any:
    total, weight = np.zeros(size), 0.0
    for number in range(1, clients + 1):
        if number not in lost:
            update = update_of(number, size, seed)
            total += update.weight * update.arrays["w"].astype(np.float64)
            weight += update.weight
    return total / weight
