"""Gradient descent on data that clients replicate, exact although some of them do not answer.

Tandon, Lei, Dimakis and Karampatziakis, "Gradient Coding: Avoiding Stragglers in Synchronous Gradient
Descent", arXiv:1612.03301.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message, MetricRecord
from flwr.serverapp import Grid

from fedeff.codes.gradient_coding import GradientCode, cyclic, fractional_repetition
from fedeff.core.errors import ConfigError, ResumeError, unknown_name
from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.grids.deadline import DeadlineGrid
from fedeff.strategies.coded_sum import CodedSum, CodedTotal, Decoded, amplification, decoded
from fedeff.strategies.cohorts import connected_nodes
from fedeff.strategies.fedavg import Asked, FedAvg, FedAvgOptions
from fedeff.strategies.local_sgd import refuse_preset
from fedeff.strategies.update_frequency import stepped
from fedeff.strategies.weighted_sum import NDArray, layout_of, metric_means

__all__ = ["CodeName", "GradientCoding", "WaitFor", "code_for"]

WaitFor = Literal["all", "enough"]
CodeName = Literal["cyclic", "fractional"]
_WAIT_FOR, _CODES = ("all", "enough"), ("cyclic", "fractional")
_PROCEDURE, _SCALE, _VELOCITY = "procedure", "learning-rate-scale", "velocity/"
_EXACT = 1e-6  # residuals up to here are those of rounding
_WORST_ERROR = 1e-3  # of the decoded gradient, that rounding to float32 may cost at most
_TRIED = 12  # runs of clients that are missing together, on which that is tried

_log = logging.getLogger(__name__)


class GradientCoding(FedAvg):
    """Full-batch gradient descent in which any `stragglers` of the clients may be missing from a round.

    The data of every client is one part, and every client is a worker of a gradient code: beside its own
    part it holds those of `stragglers` others, and answers with one linear combination of its parts' summed
    gradients at the server's model (`procedure: coded-gradient`). Any `n - stragglers` answers of n give
    the gradient of all data, to rounding; the server then takes a step of SGD with `server_momentum`:
    `v <- momentum v + g`, `w <- w - learning_rate v`. A schedule's `learning-rate-scale` scales the step.
    With more missing the gradient is the nearest in the least-squares sense, over the rows that the answers
    stand for; where these are of less than a share `least_coverage` of the parts there is no step.
    `measures` has `decode-residual` (0 where the gradient is exact) and `decode-amplification`, how much
    errors in the answers grew in decoding, those of a codec among them.

    A client goes through all rows of its parts in a round, in batches of its `batch-size`, so it works
    `stragglers + 1` times as much; with `local-steps` that many batches stand for each part. Its optimizer,
    momentum and epochs play no part. `code` is "cyclic" (client i holds the parts i to i + stragglers) or
    "fractional" (groups of `stragglers + 1` clients share their parts; their number must divide that of the
    clients), which amplifies nothing and often survives more failures.

    **Whoever holds a part sees its rows.** For silos that have agreed to replicate, or data that is public.
    Nothing checks that replicas are equal; where they are not, the gradient is silently wrong.

    With `wait_for="enough"` a round ends once `n - stragglers` clients have answered: the slowest cost
    nothing, and one that still works at an earlier message is not asked anew. A resumed run then counts what
    was under way as lost (`resumes_exactly`). With "all" it waits for everybody, up to the timeout.

    Every client takes part in every round, so `cohort` must be all of them, or None; the clients connected
    at the first round are all. `fold` is refused: what an answer weighs depends on which others came. Not for
    running statistics, which no gradient moves. The rest of `options` are those of `FedAvg`.
    """

    def __init__(
        self,
        *,
        stragglers: int = 1,
        code: CodeName = "cyclic",
        learning_rate: float = 0.05,
        server_momentum: float = 0.0,
        least_coverage: float = 0.5,
        wait_for: WaitFor = "all",
        **options: Unpack[FedAvgOptions],
    ) -> None:
        if (fold := options.get("fold", "server")) != "server":
            raise ConfigError(
                f"fold is {fold!r}, but what an answer of a gradient code weighs depends on which others "
                "came; leave fold out"
            )
        super().__init__(**options)
        refuse_preset(self.train_config, (_PROCEDURE,))
        if code not in _CODES:
            raise unknown_name("gradient code", code, _CODES)
        if wait_for not in _WAIT_FOR:
            raise unknown_name("value of wait_for", wait_for, _WAIT_FOR)
        if not 0 < learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {learning_rate}, expected a positive number")
        if not 0 <= server_momentum < 1:
            raise ConfigError(f"server_momentum is {server_momentum}, expected a number in [0, 1)")
        if not 0 < least_coverage <= 1:
            raise ConfigError(f"least_coverage is {least_coverage}, expected a share in (0, 1]")
        self.stragglers = stragglers
        self.code = code
        self.learning_rate = learning_rate
        self.server_momentum = server_momentum
        self.least_coverage = least_coverage
        self.wait_for = wait_for
        self.resumes_exactly = wait_for == "all"
        self._code: GradientCode | None = None  # of the clients of the run under way
        self._early: DeadlineGrid | None = None
        self._rate = learning_rate  # of the round under way
        self._velocities: dict[str, NDArray] = {}  # by key, float64; none before the first step
        if self.cohort is not None:
            self.check_clients(self.cohort)

    def summary(self) -> None:
        """Log what the strategy will do."""
        super().summary()
        _log.info(
            "%s gradient code for %d stragglers, steps of %g with momentum %g; rounds wait for %s",
            *(self.code, self.stragglers, self.learning_rate, self.server_momentum, self.wait_for),
        )

    def check_clients(self, clients: int) -> None:
        """Raise ConfigError unless the cohort is all of the clients, and there is a code for so many."""
        if self.cohort is not None and self.cohort != clients:
            raise ConfigError(
                f"cohort is {self.cohort} of {clients} clients, but each client is a worker of the gradient "
                f"code in every round; ask all of them (cohort={clients}), or have as many as the cohort"
            )
        code_for(self.code, clients, self.stragglers)

    def over(self, grid: Grid) -> Grid:
        """The Grid given, or one whose rounds end with enough answers; a new run counts its clients anew."""
        self._code = None
        if self.wait_for == "all":
            return grid
        # Neither its deadline nor a share of the messages ends a round: `at_least` does, once it is known.
        self._early = DeadlineGrid(grid, deadline_s=1.0, quorum=1e-9)
        return self._early

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model, and the whole code, to every client that is connected.

        Raises:
            ConfigError: where these are not the clients that the code was made for.
        """
        code, nodes = self._workers(grid)
        if self._early is not None:
            self._early.at_least = code.n - code.s
        settings = {**config, **self.train_config, "server-round": server_round, **_told(code)}
        self._rate = self.learning_rate * _scale_of(settings)
        fold = CodedSum(layout_of(arrays), self.weighted_by, code.n)
        self._asked = Asked(server_round, arrays, fold)
        return self._messages(nodes, "train", arrays, settings, fold)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after the step, and the metrics' weighted means; None where too few answered for one.

        Raises:
            EngineError: if `configure_train` was not called for this round.
        """
        asked, total = self._taken(server_round, replies)
        assert isinstance(total, CodedTotal)
        assert self._code is not None
        found = decoded(self._code, total.answers)
        self.measures = {
            "decode-residual": found.residual,
            "decode-amplification": found.amplification,
        }
        steps = found.coverage >= self.least_coverage - _EXACT and found.examples > 0
        self._log_decoding(server_round, total, found, steps)
        if not steps:
            return None, None
        self.synchronised = tuple(group_layers(asked.model))
        metrics = MetricRecord({**metric_means(total), **self.measures})
        return self._stepped(asked.model, found.mean), metrics

    def model_replaced(self) -> None:
        """Forget the velocities: momentum begins anew."""
        self._velocities = {}

    def state(self) -> dict[str, np.ndarray]:
        """The velocities; empty without momentum and before the first step."""
        return {f"{_VELOCITY}{key}": values for key, values in self._velocities.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned.

        Raises:
            ResumeError: if the state is another strategy's.
        """
        if foreign := sorted(key for key in state if not key.startswith(_VELOCITY)):
            raise ResumeError(
                f"a checkpoint holds strategy state {foreign}, GradientCoding keeps velocities alone; "
                "resume with the strategy that the run was started with"
            )
        self._velocities = {key.removeprefix(_VELOCITY): values for key, values in state.items()}

    def _workers(self, grid: Grid) -> tuple[GradientCode, list[int]]:
        """The code, and the nodes of the clients that are there; of a run's first round all of them."""
        needed = max(self.min_available_nodes, self.cohort or 1) if self._code is None else 1
        nodes = connected_nodes(grid, needed, self.wait_for_nodes_s)
        if self._code is None:
            self.check_clients(len(nodes))
            self._code = code_for(self.code, len(nodes), self.stragglers)
        if len(nodes) > self._code.n:
            raise ConfigError(
                f"{len(nodes)} clients are connected, but the gradient code of this run has {self._code.n} "
                "workers; set min_available_nodes to the number of clients, so that all are there at first"
            )
        return self._code, nodes

    def _stepped(self, model: ArrayRecord, gradient: Mapping[str, NDArray]) -> ArrayRecord:
        """The next model; arrays without a gradient are as they were."""
        arrays = decode_record(model)
        for key, direction in gradient.items():
            if self.server_momentum:
                direction = direction + self.server_momentum * self._velocities.get(key, 0.0)
                self._velocities[key] = np.asarray(direction)
            arrays[key] = stepped(arrays[key], direction, self._rate)
        return encode_record(arrays)

    def _log_decoding(self, server_round: int, total: CodedTotal, found: Decoded, steps: bool) -> None:
        if found.residual > _EXACT:
            _log.warning(
                "round %d: %d clients answered, %d may be missing; the gradient covers %.0f%% of parts: %s",
                *(server_round, total.replies, self.stragglers, 100 * found.coverage),
                "not exact" if steps else "too little for a step",
            )


@lru_cache(maxsize=8)
def code_for(name: CodeName, clients: int, stragglers: int) -> GradientCode:
    """The code of this name whose worker i holds part i.

    Raises:
        ConfigError: where there is none, or decoding float32 answers by it would lose the gradient.
    """
    if not 0 <= stragglers < clients:
        raise ConfigError(f"stragglers is {stragglers} of {clients} clients, expected 0 to {clients - 1}")
    if name == "fractional":
        code = fractional_repetition(clients, stragglers)
        # Its workers in the order of their parts: so nobody holds the parts of others alone.
        first = np.argmax(code.matrix, axis=1)
        return GradientCode(clients, stragglers, code.matrix[np.argsort(first, kind="stable")])
    code = cyclic(clients, stragglers)
    error = _worst_amplification(code) * 2.0**-24
    if error > _WORST_ERROR:
        raise ConfigError(
            f"stragglers is {stragglers} of {clients} clients: decoding would multiply rounding errors to "
            f"{error:.1g} of the gradient; take fewer stragglers, fewer clients, or code = fractional"
        )
    return code


def _worst_amplification(code: GradientCode) -> float:
    """The largest one where `s` clients in a row are missing, which is the worst pattern."""
    worst = 0.0
    for first in np.linspace(0, code.n, min(code.n, _TRIED), endpoint=False, dtype=int):
        mask = np.ones(code.n, np.bool_)
        mask[(first + np.arange(code.s)) % code.n] = False
        worst = max(worst, amplification(code, code.decode_weights(mask)[0]))
    return worst


def _scale_of(settings: Mapping[str, ConfigRecordValues]) -> float:
    scale = settings.get(_SCALE, 1.0)
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ConfigError(f"{_SCALE} is {scale!r}; it must be a finite number above 0")
    return scale


def _told(code: GradientCode) -> dict[str, ConfigRecordValues]:
    """The code as all clients are told it: one content for everybody, of which each reads its own share.

    Which node holds which partition only the clients know.
    """
    told: dict[str, ConfigRecordValues] = {_PROCEDURE: "coded-gradient"}
    for worker, parts in enumerate(code.parts):
        told[f"parts:{worker}"] = list(parts)
        told[f"coefficients:{worker}"] = code.matrix[worker, list(parts)].tolist()
    return told
