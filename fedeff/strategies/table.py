"""Strategies by name: what the command line and a run configuration may ask for."""

from collections.abc import Callable, Mapping
from typing import Any

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.strategies.batch_size import AdaptiveBatchSGD, BatchSchedule
from fedeff.strategies.deadline_averaging import DeadlineAveraging
from fedeff.strategies.delayed import DelayedAvg
from fedeff.strategies.diloco import DiLoCo
from fedeff.strategies.fedavg import FedAvg
from fedeff.strategies.fedbuff import FedBuff
from fedeff.strategies.fedlama import FedLAMA
from fedeff.strategies.fedluar import FedLUAR
from fedeff.strategies.gradient_coding import GradientCoding
from fedeff.strategies.hierarchical import HierarchicalSGD, Topology
from fedeff.strategies.local_sgd import PostLocalSGD
from fedeff.strategies.missing import ESTIMATORS
from fedeff.strategies.partial import PartialAvg
from fedeff.strategies.spec import Setting, StrategySpec
from fedeff.strategies.two_phase import TwoPhaseSchedule, TwoPhaseSGD
from fedeff.strategies.update_frequency import AdaptiveUpdateSGD

__all__ = ["build", "strategy_names", "strategy_spec"]

Given = Mapping[str, Any]


def strategy_names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(_TABLE)


def strategy_spec(name: str) -> StrategySpec:
    """What a strategy is and what it can be told.

    Raises:
        ConfigError: for an unknown name; lists the nearest ones.
    """
    if name not in _TABLE:
        raise unknown_name("strategy", name, _TABLE)
    return _TABLE[name]


def build(name: str, settings: Mapping[str, object] | None = None) -> FedAvg:
    """The strategy of this name; settings left out keep their defaults.

    Raises:
        ConfigError: for an unknown name or setting, a wrong type or an impossible value.

    >>> build("fedavg", {"cohort": 10, "fold": "workers"}).cohort
    10
    """
    spec = strategy_spec(name)
    known = {setting.key: setting for setting in spec.settings}
    given = dict(settings or {})
    for key in given:
        if key not in known:
            raise unknown_name(f"setting of strategy {name!r}", key, known)
    return spec.make({key: one.read(given.get(key, one.default)) for key, one in known.items()})


_ASYNCHRONOUS = (  # replies of several rounds arrive together, or count by who came: nothing to fold
    Setting("cohort", 100, "clients that train in a round, at least 1"),
    Setting("evaluate-clients", 0, "clients that evaluate the model on their own data, 0 for none"),
    Setting("seed", 0, "seed of the cohorts"),
    Setting("min-available-nodes", 1, "connected clients to wait for before a cohort is drawn"),
    Setting("wait-for-nodes-s", 10.0, "seconds to wait for them"),
)
_SHARED = (*_ASYNCHRONOUS, Setting("fold", "server", "where replies are summed: server or workers"))
_LEARNING_RATE = Setting("learning-rate", 0.05, "the step size to begin with, above 0")
_KEEP_OPTIMIZER = Setting("keep-optimizer", False, "clients keep their optimizer's moments between rounds")
_SWEEPS = Setting("sweeps", 1, "how often each group is averaged before another cohort is drawn")


def _told(given: Given, *settings: Setting) -> dict[str, Any]:
    """The values of some settings as keyword arguments of the same names."""
    return {setting.key.replace("-", "_"): given[setting.key] for setting in settings}


def _plain(
    name: str, summary: str, make: Callable[..., FedAvg], *own: Setting, shared: tuple[Setting, ...] = _SHARED
) -> StrategySpec:
    """A strategy whose constructor takes each setting under its own name."""
    settings = (*shared, *own)
    return StrategySpec(name, summary, settings, lambda given: make(**_told(given, *settings)))


def _fedprox(given: Given) -> FedAvg:
    mu = given["prox-mu"]
    if not mu >= 0:
        raise ConfigError(f"prox-mu = {mu}: fedprox needs a pull of 0 or more, such as 0.1")
    return FedAvg(**_told(given, *_SHARED), train_config={"prox-mu": mu})


def _fedbuff(given: Given) -> FedBuff:
    rest = _told(given, *(setting for setting in _ASYNCHRONOUS if setting.key != "cohort"))
    stalest = given["max-staleness"]
    return FedBuff(
        **rest,
        concurrency=given["cohort"],
        buffer=given["buffer"],
        server_learning_rate=given["server-learning-rate"],
        max_staleness=None if stalest == -1 else stalest,
    )


def _fedluar(given: Given) -> FedLUAR:
    recycled = given["recycled-layers"]
    return FedLUAR(**_told(given, *_SHARED), recycled_layers=None if recycled == -1 else recycled)


def _post_local(given: Given) -> PostLocalSGD:
    return PostLocalSGD(
        **_told(given, *_SHARED), switch_round=given["switch-round"], local_steps=given["later-steps"]
    )


def _hierarchical(given: Given) -> HierarchicalSGD:
    topology = Topology.read(given["topology"])
    return HierarchicalSGD(**_told(given, *_SHARED), topology=topology, global_every=given["global-every"])


def _adaptive_batch(given: Given) -> AdaptiveBatchSGD:
    schedule = BatchSchedule(
        every=given["grow-every"], **_told(given, *(s for s in _BATCH if s.key != "grow-every"))
    )
    return AdaptiveBatchSGD(**_told(given, *_SHARED), schedule=schedule)


def _two_phase(given: Given) -> TwoPhaseSGD:
    schedule = TwoPhaseSchedule(
        c=given["stability"], **_told(given, *(s for s in _PHASES if s.key != "stability"))
    )
    return TwoPhaseSGD(**_told(given, *_SHARED, *_CURVATURE), schedule=schedule)


_FEDBUFF = (
    Setting("buffer", 10, "updates that make a step of the server"),
    Setting("server-learning-rate", 1.0, "step size of the server, above 0"),
    Setting("max-staleness", -1, "steps of the server after which an update is refused, -1 for never"),
)
_BATCH = (
    Setting("batch-size", 10, "training rows in a batch to begin with"),
    Setting("largest-batch-size", 160, "where the batch stops growing"),
    _LEARNING_RATE,
    Setting("grow-every", 0, "rounds between growths, 0 to wait for a plateau of the training loss"),
    Setting("patience", 5, "rounds without improvement that make a plateau"),
    Setting("min-improvement", 0.01, "share by which the loss must fall to count as improvement"),
    Setting("ramp-rounds", 3, "rounds over which the learning rate follows the batch"),
    Setting("decay", 0.1, "factor on the learning rate once the batch is largest"),
)
_PHASES = (
    Setting("peak-rate", 0.5, "the largest learning rate, whatever the curvature"),
    Setting("stability", 1.0, "learning rates stay below this over the largest eigenvalue, in (0, 2)"),
    Setting("warmup-rounds", 5, "rounds over which the learning rate rises"),
    Setting("hold-rounds", 50, "rounds of phase 1, warm-up among them"),
    Setting("decay-rounds", 50, "rounds of phase 2, over which it falls"),
    Setting("floor-rate", 0.001, "the learning rate at the end"),
)
_CURVATURE = (
    Setting("curvature-every", 10, "rounds between measurements of the curvature"),
    Setting("curvature-clients", 5, "clients that measure it"),
    Setting("power-iterations", 20, "iterations of the power method on each"),
)

_TABLE = {
    spec.name: spec
    for spec in (
        _plain("fedavg", "weighted mean of the clients' models (McMahan et al., arXiv:1602.05629)", FedAvg),
        StrategySpec(
            "fedprox",
            "fedavg with clients pulled towards the global model (Li et al., arXiv:1812.06127)",
            (*_SHARED, Setting("prox-mu", 0.1, "strength of the pull, 0 for none")),
            _fedprox,
        ),
        _plain(
            "fedlama",
            "layers in which clients agree are averaged less often (Lee et al., arXiv:2110.10302)",
            FedLAMA,
            Setting("phi", 2, "rounds of a cycle: layers are averaged every round or once a cycle"),
            Setting("rule", "inclusive", "whether the crossing layer is relaxed too: inclusive or strict"),
            Setting("discrepancy-ema", 0.0, "weight of a layer's earlier discrepancies, in [0, 1)"),
            Setting("first-cycle-rounds", 0, "rounds of the first cycle, which averages all; 0 for phi"),
            _KEEP_OPTIMIZER,
        ),
        _plain(
            "partial",
            "one group of parameters is averaged after the other (Lee et al., arXiv:2201.03789)",
            PartialAvg,
            Setting("groups", 4, "groups of equal bytes, averaged in turn"),
            Setting("by", "layer", "what a group is made of: layer or channel"),
            Setting("overlap", False, "means arrive one round late and are added to what was learned since"),
            _SWEEPS,
            _KEEP_OPTIMIZER,
        ),
        StrategySpec(
            "fedluar",
            "layers that hardly move repeat their last update (Kim et al., arXiv:2503.11146)",
            (*_SHARED, Setting("recycled-layers", -1, "layers that do so in a round, -1 for half of them")),
            _fedluar,
        ),
        _plain(
            "diloco",
            "AdamW on the clients, Nesterov momentum on the server (Douillard et al., arXiv:2311.08105)",
            DiLoCo,
            Setting("outer-learning-rate", 0.7, "step size of the server, above 0"),
            Setting("outer-momentum", 0.9, "Nesterov momentum of the server, in [0, 1)"),
            Setting("fragments", 1, "groups of layers that are averaged in turn (arXiv:2501.18512)"),
            Setting("close-cycles", True, "the last round before another cohort sends every fragment"),
            Setting("inner-optimizer", "adamw", "the clients' optimizer, empty for the one that they have"),
            Setting("inner-learning-rate", 0.001, "the clients' step size, 0 for the one that they have"),
            _SWEEPS,
        ),
        StrategySpec(
            "post-local",
            "one local step a round first, many later (Lin et al., arXiv:1808.07217)",
            (
                *_SHARED,
                Setting("switch-round", 10, "the last round of one local step"),
                Setting("later-steps", 8, "local steps of the rounds after it"),
            ),
            _post_local,
        ),
        StrategySpec(
            "hierarchical",
            "means within groups every round, across groups now and then (Lee et al., BigData 2020)",
            (
                *_SHARED,
                Setting("topology", "4", "number of groups, or first-last:group,..., or file:PATH"),
                Setting("global-every", 4, "rounds between means across groups"),
            ),
            _hierarchical,
        ),
        _plain(
            "adaptive-update",
            "each layer's gradients are gathered while they agree (Lee et al., JPDC 2021)",
            AdaptiveUpdateSGD,
            _LEARNING_RATE,
            Setting("theta", 0.9, "gradients agree from this cosine on"),
            Setting("c-max", 4, "gradients that are gathered at most"),
            Setting("cycle-rounds", 16, "rounds for which a cohort stays together"),
        ),
        StrategySpec(
            "adaptive-batch",
            "the batch grows, and the learning rate with it, when learning slows (Lee et al., BigData 2019)",
            (*_SHARED, *_BATCH),
            _adaptive_batch,
        ),
        StrategySpec(
            "two-phase",
            "large batches at the largest stable learning rate, then decay (Lee and Avestimehr)",
            (*_SHARED, *_PHASES, *_CURVATURE),
            _two_phase,
        ),
        _plain(
            "delayed",
            "means arrive while clients train on (Zhu et al., delayed gradient averaging, NeurIPS 2021)",
            DelayedAvg,
            Setting("delay", 1, "rounds by which a mean is late"),
            shared=_ASYNCHRONOUS,
        ),
        _plain(
            "deadline",
            "rounds end at a deadline; missing updates may be estimated (MIFA, arXiv:2106.04159, and more)",
            DeadlineAveraging,
            Setting("missing", "drift", "what stands in for missing clients: " + ", ".join(ESTIMATORS)),
            Setting("deadline-s", 60.0, "seconds for which a round lasts, virtual ones on a clock, above 0"),
            Setting("quorum", 1.0, "share of the asked clients whose replies end a round earlier, in (0, 1]"),
            Setting("fewest-replies", 1, "replies that a round waits for whatever the time"),
            Setting("history-rounds", 32, "rounds after which a client's update is forgotten"),
            shared=_ASYNCHRONOUS,
        ),
        _plain(
            "gradient-coding",
            "steps on replicated data, exact without the stragglers (Tandon et al., arXiv:1612.03301)",
            GradientCoding,
            _LEARNING_RATE,
            Setting("stragglers", 1, "clients that a round can do without; each holds so many others' data"),
            Setting("code", "cyclic", "who holds whose data: cyclic (the next ones') or fractional (groups)"),
            Setting("server-momentum", 0.0, "momentum of the server's steps, in [0, 1)"),
            Setting("least-coverage", 0.5, "share of the data that answers stand for at least, for a step"),
            Setting("wait-for", "all", "what ends a round: all answers, or enough for the exact gradient"),
            shared=_ASYNCHRONOUS,
        ),
        StrategySpec(
            "fedbuff",
            "the server steps whenever enough updates have come (Nguyen et al., arXiv:2106.06639)",
            (*_ASYNCHRONOUS, *_FEDBUFF),
            _fedbuff,
        ),
    )
}
