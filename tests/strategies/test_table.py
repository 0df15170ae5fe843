"""Strategies by name, with settings as a run configuration writes them."""

import pytest

import fedeff.strategies
from fedeff.core.errors import ConfigError
from fedeff.strategies import FedAvg, FedLAMA, build, strategy_names, strategy_spec


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_builds_from_its_defaults(name):
    spec = strategy_spec(name)
    defaults = {setting.key: setting.default for setting in spec.settings}
    one, two = build(name), build(name, defaults)
    assert type(one) is type(two)
    public = [{key: value for key, value in vars(each).items() if key[0] != "_"} for each in (one, two)]
    assert public[0] == public[1]
    assert all((spec.summary, *(setting.meaning for setting in spec.settings)))


def test_names_give_their_strategies():
    assert type(build("fedavg")) is FedAvg
    assert type(build("fedprox")) is FedAvg
    assert type(build("fedlama")) is FedLAMA
    others = [name for name in strategy_names() if name not in ("fedavg", "fedprox")]
    assert len({type(build(name)) for name in others}) == len(others) == 13


def test_settings_arrive():
    settings = {
        "cohort": 7,
        "evaluate-clients": 3,
        "fold": "workers",
        "seed": 5,
        "min-available-nodes": 9,
        "wait-for-nodes-s": 2,
        "phi": 4,
        "rule": "strict",
        "discrepancy-ema": 0.5,
        "keep-optimizer": True,
    }
    strategy = build("fedlama", settings)
    for key, value in settings.items():
        assert getattr(strategy, key.replace("-", "_")) == value


@pytest.mark.parametrize(
    ("name", "key", "value", "read"),
    [
        ("fedbuff", "cohort", 40, lambda s: s.concurrency),
        ("fedluar", "recycled-layers", 3, lambda s: s.recycled_layers),
        ("post-local", "later-steps", 5, lambda s: s.schedule.local_steps),
        ("post-local", "switch-round", 3, lambda s: s.schedule.switch_round),
        ("hierarchical", "topology", "3", lambda s: str(s.topology.groups)),
        ("hierarchical", "global-every", 7, lambda s: s.global_every),
        ("adaptive-batch", "grow-every", 2, lambda s: s.schedule.every),
        ("adaptive-batch", "decay", 0.5, lambda s: s.schedule.decay),
        ("two-phase", "stability", 0.5, lambda s: s.schedule.c),
        ("two-phase", "hold-rounds", 9, lambda s: s.schedule.hold_rounds),
        ("two-phase", "power-iterations", 4, lambda s: s.power_iterations),
        ("delayed", "delay", 2, lambda s: s.delay),
        ("deadline", "missing", "gram", lambda s: s.missing),
        ("deadline", "deadline-s", 1.5, lambda s: s.deadline_s),
        ("deadline", "history-rounds", 4, lambda s: s.history_rounds),
        ("gradient-coding", "stragglers", 3, lambda s: s.stragglers),
        ("gradient-coding", "code", "fractional", lambda s: s.code),
        ("gradient-coding", "server-momentum", 0.5, lambda s: s.server_momentum),
        ("gradient-coding", "learning-rate", 0.5, lambda s: s.learning_rate),
        ("gradient-coding", "wait-for", "enough", lambda s: s.wait_for),
        ("diloco", "fragments", 3, lambda s: s.fragments),
        ("partial", "by", "channel", lambda s: s.by),
        ("adaptive-update", "theta", 0.5, lambda s: s.theta),
    ],
)
def test_a_setting_arrives_under_the_strategys_own_name(name, key, value, read):
    assert read(build(name, {key: value})) == value


def test_a_key_has_one_default_in_all_strategies():
    """So that an app folder can list it."""
    settings = [setting for name in strategy_names() for setting in strategy_spec(name).settings]
    assert len({(s.key, s.default) for s in settings}) == len({s.key for s in settings})


def test_fedprox_is_fedavg_whose_clients_are_told_to_stay_near():
    assert build("fedprox", {"prox-mu": 0.3}).train_config == {"prox-mu": 0.3}
    assert build("fedprox", {"prox-mu": 0}).train_config == {"prox-mu": 0.0}
    assert build("fedprox").train_config == {"prox-mu": 0.1}
    assert build("fedavg").train_config == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fedagv", {}, "unknown strategy 'fedagv'; did you mean 'fedavg'"),
        ("fedavg", {"cohrt": 3}, "unknown setting of strategy 'fedavg' 'cohrt'; did you mean 'cohort'"),
        ("fedavg", {"phi": 3}, "unknown setting of strategy 'fedavg' 'phi'"),
        ("fedavg", {"cohort": 0}, "cohort is 0"),
        ("fedavg", {"cohort": 2.5}, "cohort = 2.5 is not of type int"),
        ("fedavg", {"cohort": True}, "cohort = True is not of type int"),
        ("fedavg", {"fold": 1}, "fold = 1 is not of type str"),
        ("fedavg", {"fold": "wrokers"}, "did you mean 'workers'"),
        ("fedprox", {"prox-mu": -0.1}, "prox-mu = -0.1: fedprox needs a pull of 0 or more"),
        ("fedlama", {"phi": 0}, "phi is 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, settings)
    assert "\n" not in str(caught.value)


def test_all_is_what_the_package_offers():
    assert all(hasattr(fedeff.strategies, name) for name in fedeff.strategies.__all__)
