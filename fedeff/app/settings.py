"""The built-in app's settings: one frozen value parsed from Flower's run config.

Keys are Flower's kebab-case (`learning-rate`), set in `[tool.flwr.app.config]` and overridden with
`-c key=value`. An unknown key, a wrong type or an impossible value is a `ConfigError` of one line.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from fedeff.app.allowed import (
    above,
    above_to,
    anything,
    at_least,
    at_least_or,
    below,
    between,
    checked,
    default_of,
    inside,
    key_of,
    one_of,
    switch,
)
from fedeff.app.allowed import setting as _setting
from fedeff.app.local_privacy_settings import LocalPrivacySettings
from fedeff.app.privacy_settings import PrivacySettings
from fedeff.app.secure_settings import SecureSettings
from fedeff.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from fedeff.strategies.spec import Setting, StrategySpec

__all__ = ["SettingDoc", "Settings", "documented", "documented_own"]

Value = bool | int | float | str

# Of strategies, but for runtimes whose clients come and go: a simulation has them all from the start.
_NOT_OF_RUNS = {"min-available-nodes", "wait-for-nodes-s"}


@dataclass(frozen=True)
class Settings(SecureSettings, LocalPrivacySettings, PrivacySettings):
    """What the built-in app does, apart from where and on how many clients it runs.

    >>> Settings.from_run_config({"cohort": 10, "learning-rate": 0.1}).cohort
    10
    """

    strategy: str = _setting(
        "fedavg",
        "how clients' models become one",
        one_of(
            "fedavg",
            "fedprox",
            "fedlama",
            "partial",
            "fedluar",
            "diloco",
            "post-local",
            "hierarchical",
            "adaptive-update",
            "adaptive-batch",
            "two-phase",
            "delayed",
            "deadline",
            "gradient-coding",
            "fedbuff",
        ),
    )
    model: str = _setting(
        "cnn",
        "the network",
        one_of("cnn", "mlp", "resnet20", "resnet20-small", "gru", "lstm", "transformer", "logistic"),
    )
    dataset: str = _setting(
        "auto",
        "the data; auto takes fashion-mnist where it is found, else shakespeare",
        one_of("auto", "fashion-mnist", "shakespeare", "digits"),
    )
    data_folder: str = _setting("", "where the data files are", anything("a folder, or empty to search"))
    partition: str = _setting(
        "dirichlet:0.3",
        "how training rows go to clients",
        anything("iid, dirichlet:ALPHA, shards:CLASSES, quantity:SKEW, natural"),
    )
    cohort: int = _setting(100, "clients that train in a round", at_least(1))
    num_server_rounds: int = _setting(30, "rounds", at_least(1))
    local_epochs: int = _setting(1, "passes over a client's data in a round", at_least(1))
    local_steps: int = _setting(0, "batches a client trains in a round, 0 for whole epochs", at_least(0))
    batch_size: int = _setting(10, "training rows in a batch", at_least(1))
    optimizer: str = _setting(
        "sgd", "the clients' optimizer", one_of("sgd", "momentum", "adam", "adamw", "slim-qn")
    )
    learning_rate: float = _setting(0.05, "the clients' step size", above(0))
    learning_rate_schedule: str = _setting(
        "constant",
        "how the step size falls over the rounds: not at all, or to nearly 0 by half a cosine or a line",
        one_of("constant", "cosine", "linear"),
    )
    momentum: float = _setting(0.0, "of optimizer=momentum or slim-qn", below(0, 1))
    weight_decay: float = _setting(0.0, "pull of the weights towards zero", at_least(0))
    prox_mu: float = _setting(
        -1.0,
        "pull towards the global model (FedProx), 0 for none; -1 is 0.1 with fedprox, else 0",
        at_least_or(0, -1),
    )
    perturbation: str = _setting(
        "none",
        "noise on the weights while a gradient is taken",
        one_of("none", "smooth-out", "ada-smooth-out"),
    )
    perturbation_radius: float = _setting(
        0.0,
        "how much: the largest noise, or (ada) its norm over a filter's; 0 is 0.0375, or (ada) 0.15",
        at_least(0),
    )
    qn_history: int = _setting(10, "pairs that slim-qn keeps of each layer", at_least(1))
    qn_interval: int = _setting(50, "steps between pairs of slim-qn", at_least(1))
    qn_beta: float = _setting(
        0.999, "weight of earlier steps in slim-qn's averages of weights and gradients", below(0, 1)
    )
    qn_damping: float = _setting(0.01, "least curvature of slim-qn's pairs: higher is steadier", inside(0, 1))
    objective: str = _setting(
        "supervised",
        "what clients learn from: labels, views of images, or these beside a model of each one's own",
        one_of("supervised", "simsiam", "per-ssfl"),
    )
    projection_width: int = _setting(128, "of the embeddings of objective=simsiam or per-ssfl", at_least(2))
    personal_weight: float = _setting(
        1.0, "of objective=per-ssfl: pull of personal embeddings towards the global ones", at_least(0)
    )
    probe_labels: float = _setting(
        0.01,
        "share of the training rows whose labels may be seen when features are evaluated",
        above_to(0, 1),
    )
    sparsity: str = _setting(
        "none",
        "structure that clients' penalties give the model, which the server then makes smaller: groups of "
        "zeros (ssl, iss) or filters of low rank (force)",
        one_of("none", "ssl", "iss", "force"),
    )
    sparsity_strength: float = _setting(
        0.0, "of the penalty; 0 is 0.002, with sparsity=force 0.0005", at_least(0)
    )
    sparsity_threshold: float = _setting(
        0.01, "groups whose weights have at most this root mean square become zero", at_least(0)
    )
    sparsity_groups: str = _setting(
        "filters+channels+neurons",
        "what sparsity=ssl zeroes",
        anything("filters, channels, neurons, shapes, kernels, depth, joined by +"),
    )
    sparsity_rounds: int = _setting(
        0, "rounds with the penalty, then fine-tuning; 0 for two thirds of all", at_least(0)
    )
    shrink_every: int = _setting(
        5, "rounds between cuts while the penalty is on (ssl, iss), 0 for its end alone", at_least(0)
    )
    force_norm: str = _setting("l2", "of sparsity=force: how far filters pull", one_of("l2", "l1"))
    force_direction: str = _setting(
        "attract", "of sparsity=force: towards each other, or apart", one_of("attract", "repel")
    )
    rank_error: float = _setting(
        0.05, "share of the filters' energy that a decomposition may lose", below(0, 1)
    )
    low_rank: str = _setting(
        "none",
        "layers that send little: products of small factors (fedpara), or adapters on weights that all "
        "clients know (lora)",
        one_of("none", "fedpara", "lora"),
    )
    rank: int = _setting(
        0, "of every layer with low-rank; 0 for 4 with lora, by rank-ratio with fedpara", at_least(0)
    )
    rank_ratio: float = _setting(
        0.1,
        "of low-rank=fedpara: ranks between the lowest that can make any weight (0) and the highest that "
        "saves something (1)",
        between(0, 1),
    )
    personal_factors: bool = _setting(
        False, "with low-rank=fedpara the second factors never leave a client (pFedPara)", switch()
    )
    lora_alpha: float = _setting(0.0, "adapters count alpha / rank; 0 for the rank", at_least(0))
    lora_freeze_a: bool = _setting(
        False, "train one factor of each adapter alone, so that means of adapters are exact", switch()
    )
    lora_extras: str = _setting(
        "", "what is trained beside adapters", anything("biases, norms, head, joined by +; empty for none")
    )
    initial_weights: str = _setting(
        "",
        "what the model begins with, such as the folder of another run",
        anything("a run's folder, a checkpoint, a safetensors file; empty for random weights"),
    )
    autocast: bool = _setting(False, "train in bfloat16 where it pays", switch())
    vectorise: str = _setting("auto", "train a block of clients at once", one_of("auto", "always", "never"))
    fold: str = _setting("server", "where replies are summed", one_of("server", "workers"))
    codec: str = _setting(
        "", "how clients code what they send", anything("a codec, such as tern_grad, or empty for none")
    )
    codec_difference: bool = _setting(
        True, "clients code what changed since they were sent an array, where they send weights", switch()
    )
    codec_shared_scale: bool = _setting(
        False, "clients scale by the largest scale of the round before, for tern_grad", switch()
    )
    down_codec: str = _setting(
        "", "how the server codes models", anything("a codec without memory, or empty for none")
    )
    down_difference: bool = _setting(
        False, "the server codes what changed since a client was sent an array", switch()
    )
    device: str = _setting("cpu", "where clients train", anything("cpu, cuda, cuda:0, ..."))
    seed: int = _setting(0, "of every random draw", at_least(0))
    evaluate_every: int = _setting(1, "rounds between evaluations of the global model", at_least(1))
    coded_eval: str = _setting(
        "",
        "the server evaluates the global model on Ray actors under a code",
        anything("replication:K,R, berrut:K,R, spline:K,R, mds:K,R, or empty for none"),
    )
    evaluate_clients: int = _setting(0, "clients that evaluate it on their own data, 0 for none", at_least(0))
    target_accuracy: float = _setting(
        0.0, "stop when the global model reaches it, 0 for never", between(0, 1)
    )
    round_timeout_s: float = _setting(
        3600.0,
        "seconds for which a round waits for replies, virtual ones on a clock; 0 for as long as it takes",
        at_least(0),
    )
    largest_reply_bytes: int = _setting(
        0, "a reply of more is refused before it is read; 0 for 16 times the model's size", at_least(0)
    )
    run_folder: str = _setting(
        "",
        "where a deployment's ServerApp keeps the run and goes on with one that is there",
        anything("a folder of its machine; empty to keep none"),
    )
    wait_for_clients_s: float = _setting(
        60.0, "seconds for which a deployment's ServerApp waits until all clients are there", at_least(0)
    )
    own: tuple[tuple[str, Value], ...] = ()  # settings of strategies that were given, by key

    def __post_init__(self) -> None:
        for one in _plain_fields():
            object.__setattr__(self, one.name, checked(one, getattr(self, one.name)))
        from fedeff.data import parse_scheme  # here, since help and errors need no NumPy

        parse_scheme(self.partition)
        self._check_codecs()
        self._check_coded_eval()
        self.check_secure(
            self.strategy,
            self.codec,
            evaluate_clients=self.evaluate_clients,
            private=self.noise_multiplier > 0,
            shared_scale=self.codec_shared_scale,
        )
        self.check_privacy(evaluate_clients=self.evaluate_clients, shared_scale=self.codec_shared_scale)
        if self.own:
            known = _strategy_settings()
            read = {key: _of_strategy(known, key).read(value) for key, value in self.own}
            object.__setattr__(self, "own", tuple(sorted(read.items())))
        self.check_local_privacy(self.run_config())

    def _check_coded_eval(self) -> None:
        if not self.coded_eval:
            return
        from fedeff.codes.spec import code_of

        code_of(self.coded_eval)
        if self.objective != "supervised":
            raise ConfigError(
                f"coded-eval = {self.coded_eval!r} with objective = {self.objective!r}: actors answer with "
                "classes, and this objective has none; leave one of them out"
            )

    def _check_codecs(self) -> None:
        if self.down_difference and not self.down_codec:
            raise ConfigError("down-difference = true, but no down-codec is given; set -c down-codec=...")
        if self.codec_shared_scale and not self.codec:
            raise ConfigError("codec-shared-scale = true, but no codec is given; set -c codec=tern_grad")
        if self.codec and self.fold == "workers":
            raise ConfigError(
                f"fold = 'workers' with codec = {self.codec!r}: coded replies are decoded on the server; "
                "set -c fold=server, or leave the codec out"
            )
        if self.codec or self.down_codec:
            from fedeff.compression import codec_of

            for spec in filter(None, (self.codec, self.down_codec)):
                codec_of(spec)

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Value]) -> "Settings":
        """The settings that a Flower run config asks for; keys left out keep their defaults.

        Keys of any strategy are taken; each strategy reads its own.

        Raises:
            ConfigError: for an unknown key, a wrong type, or a value out of range.
        """
        names = {key_of(one): one.name for one in _plain_fields()}
        own = tuple((key, value) for key, value in run_config.items() if key not in names)
        given: dict[str, Any] = {names[key]: value for key, value in run_config.items() if key in names}
        return cls(**given, own=own)

    def run_config(self) -> dict[str, Value]:
        """Every setting by its kebab-case key, as Flower's run config holds it; of strategies those given."""
        return {key_of(one): getattr(self, one.name) for one in _plain_fields()} | dict(self.own)

    def changed(self) -> dict[str, Value]:
        """The settings that differ from the defaults, by kebab-case key, and those given to strategies."""
        plain = Settings().run_config()
        return {k: v for k, v in self.run_config().items() if k not in plain or v != plain[k]}

    def complete(self) -> "Settings":
        """The same with every setting of its own strategy, at its default where not given, and no other's."""
        known, given = _strategy_settings(), dict(self.own)
        defaults: dict[str, Any] = {s.key: s.default for s in _specs()[self.strategy].settings}
        own = tuple((key, given.get(key, default)) for key, default in defaults.items() if key in known)
        return replace(
            self, own=own, prox_mu=defaults.get("prox-mu", 0.0) if self.prox_mu < 0 else self.prox_mu
        )

    @property
    def clients_step(self) -> bool:
        """Whether the strategy's clients take steps of their own; they only tell gradients else."""
        return self.strategy not in ("adaptive-update", "gradient-coding")

    def check_clients(self, clients: int) -> None:
        """Raise `ConfigError` unless rounds of this size can be drawn from so many clients."""
        for key, wanted in (("cohort", self.cohort), ("evaluate-clients", self.evaluate_clients)):
            if wanted > clients:
                raise ConfigError(
                    f"{key} = {wanted}, but there are {clients} clients; "
                    f"set -c {key}={clients} or less, or give more clients"
                )


@dataclass(frozen=True)
class SettingDoc:
    """One row of the settings table."""

    key: str
    default: Value
    meaning: str
    allowed: str


def documented() -> tuple[SettingDoc, ...]:
    """Every setting that is no strategy's own, with its default, meaning and allowed values."""
    return tuple(
        SettingDoc(key_of(one), default_of(one), one.metadata["meaning"], one.metadata["allowed"].text)
        for one in _plain_fields()
    )


def documented_own() -> tuple[SettingDoc, ...]:
    """The settings that only some strategies read; `allowed` names them."""
    docs = []
    for key, setting in _strategy_settings().items():
        readers = [name for name, spec in _specs().items() if key in {s.key for s in spec.settings}]
        docs.append(SettingDoc(key, setting.default, setting.meaning, "read by " + ", ".join(readers)))
    return tuple(docs)


def _plain_fields() -> tuple[Field[Any], ...]:
    """The fields in the order of the documentation: those that are inherited last."""
    inherited = {
        one.name for part in (SecureSettings, LocalPrivacySettings, PrivacySettings) for one in fields(part)
    }
    plain = [one for one in fields(Settings) if one.name != "own"]
    return tuple(sorted(plain, key=lambda one: one.name in inherited))


@cache
def _specs() -> "dict[str, StrategySpec]":
    from fedeff.strategies import strategy_names, strategy_spec  # here: they load flwr and NumPy

    return {name: strategy_spec(name) for name in strategy_names()}


@cache
def _strategy_settings() -> "dict[str, Setting]":
    """The settings that are no fields of `Settings`, by key, of all strategies."""
    plain = {key_of(one) for one in _plain_fields()}
    settings = [setting for spec in _specs().values() for setting in spec.settings]
    return {setting.key: setting for setting in settings if setting.key not in plain | _NOT_OF_RUNS}


def _of_strategy(known: "dict[str, Setting]", key: str) -> "Setting":
    if key not in known:
        raise unknown_name("setting", key, [*map(key_of, _plain_fields()), *known])
    return known[key]
