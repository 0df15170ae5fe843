"""Strategies by name, with settings as a run configuration writes them."""

import pytest

import fedeff.strategies
from fedeff.core.errors import ConfigError
from fedeff.strategies import FedAvg, LayerwiseAvg, build, strategy_names, strategy_spec


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_builds_from_its_defaults(name):
    spec = strategy_spec(name)
    defaults = {setting.key: setting.default for setting in spec.settings}
    one, two = build(name), build(name, defaults)
    assert type(one) is type(two)
    assert vars(one) == vars(two)
    assert all((spec.summary, *(setting.meaning for setting in spec.settings)))


def test_names_give_their_strategies():
    assert strategy_names() == ("fedavg", "fedprox", "layerwise")
    assert type(build("fedavg")) is FedAvg
    assert type(build("fedprox")) is FedAvg
    assert type(build("layerwise")) is LayerwiseAvg


def test_settings_arrive():
    settings = {
        "cohort": 7,
        "evaluate-clients": 3,
        "fold": "workers",
        "seed": 5,
        "min-available-nodes": 9,
        "wait-for-nodes-s": 2,
        "layer-interval": 4,
        "large-share": 0.7,
    }
    strategy = build("layerwise", settings)
    for key, value in settings.items():
        assert getattr(strategy, key.replace("-", "_")) == value


def test_fedprox_is_fedavg_whose_clients_are_told_to_stay_near():
    assert build("fedprox", {"prox-mu": 0.3}).train_config == {"prox-mu": 0.3}
    assert build("fedavg").train_config == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fedagv", {}, "unknown strategy 'fedagv'; did you mean 'fedavg'"),
        ("fedavg", {"cohrt": 3}, "unknown setting of strategy 'fedavg' 'cohrt'; did you mean 'cohort'"),
        ("fedavg", {"layer-interval": 3}, "unknown setting of strategy 'fedavg' 'layer-interval'"),
        ("fedavg", {"cohort": 0}, "cohort is 0"),
        ("fedavg", {"cohort": 2.5}, "cohort = 2.5 is not of type int"),
        ("fedavg", {"cohort": True}, "cohort = True is not of type int"),
        ("fedavg", {"fold": 1}, "fold = 1 is not of type str"),
        ("fedavg", {"fold": "wrokers"}, "did you mean 'workers'"),
        ("fedprox", {"prox-mu": 0}, "prox-mu = 0.0: fedprox needs a positive pull"),
        ("layerwise", {"layer-interval": 0}, "interval 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, settings)
    assert "\n" not in str(caught.value)


def test_all_is_what_the_package_offers():
    assert all(hasattr(fedeff.strategies, name) for name in fedeff.strategies.__all__)
