"""Settings: what a run config may say, and what is answered when it says something else."""

import math
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.server import strategy_of
from fedeff.app.settings import Settings, documented, documented_own
from fedeff.clients import client_app
from fedeff.core.errors import ConfigError
from fedeff.data import dataset_names
from fedeff.models import model_names
from fedeff.strategies import strategy_names, strategy_spec

ROOT = Path(__file__).resolve().parents[2]
KEYS = {doc.key: doc for doc in (*documented(), *documented_own())}

values = {
    "cohort": st.integers(1, 10_000),
    "learning-rate": st.floats(1e-6, 10),
    "momentum": st.floats(0, 0.99),
    "autocast": st.booleans(),
    "partition": st.sampled_from(["iid", "dirichlet:0.1", "shards:3", "quantity:1", "natural"]),
    "model": st.sampled_from(model_names()),
    "target-accuracy": st.floats(0, 1),
    "data-folder": st.text(),
}


@given(st.fixed_dictionaries({}, optional=values))
def test_a_run_config_goes_round(given_config):
    settings = Settings.from_run_config(given_config)
    assert {key: settings.run_config()[key] for key in given_config} == given_config
    assert Settings.from_run_config(settings.run_config()) == settings
    assert Settings.from_run_config(settings.changed()) == settings


@given(st.text(min_size=1).filter(lambda key: key not in KEYS))
def test_an_unknown_key_is_refused_in_one_line(key):
    with pytest.raises(ConfigError) as refused:
        Settings.from_run_config({key: 1})
    assert repr(key) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("seen", "meant"),
    [("cohrt", "cohort"), ("learning_rate", "learning-rate"), ("num-rounds", "num-server-rounds")],
)
def test_a_misspelt_key_is_answered_with_the_nearest(seen, meant):
    with pytest.raises(ConfigError, match=f"did you mean .*'{meant}'"):
        Settings.from_run_config({seen: 1})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cohort", 0, "at least 1"),
        ("cohort", 2.0, "not a whole number"),
        ("cohort", True, "not a whole number"),
        ("cohort", "10", "not a whole number"),
        ("learning-rate", 0, "above 0"),
        ("learning-rate", math.inf, "not a number"),
        ("learning-rate", math.nan, "not a number"),
        ("momentum", 1, "below 1"),
        ("autocast", 1, "true or false"),
        ("strategy", "fedavgg", "did you mean 'fedavg'"),
        ("model", 3, "not text"),
        ("model", "ccn", "did you mean 'cnn'"),
        ("dataset", "fashion", "did you mean 'fashion-mnist'"),
        ("vectorise", "yes", "always"),
        ("target-accuracy", 1.5, "from 0 to 1"),
        ("target-accuracy", -0.1, "from 0 to 1"),
        ("partition", "dirichlet", "dirichlet:0.3"),
        ("partition", "dirichle:0.3", "did you mean 'dirichlet'"),
        ("partition", "shards:0", "shards:2"),
        ("seed", -1, "at least 0"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(key, value, said):
    with pytest.raises(ConfigError) as refused:
        Settings.from_run_config({key: value})
    message = str(refused.value)
    assert said in message
    assert key in message
    assert "\n" not in message


def test_whole_numbers_serve_as_floats():
    learning_rate = Settings.from_run_config({"learning-rate": 1}).learning_rate
    assert (learning_rate, type(learning_rate)) == (1.0, float)


def test_every_key_is_documented():
    plain = list(Settings().run_config())  # those of secure aggregation, which are inherited, last
    assert {field.name.replace("_", "-") for field in fields(Settings) if field.name != "own"} == set(plain)
    assert list(KEYS) == [*plain, *(doc.key for doc in documented_own())]
    assert {key: KEYS[key].default for key in plain} == Settings().run_config()
    assert all(doc.meaning and doc.allowed for doc in KEYS.values())


def test_the_documented_names_are_those_of_the_rooms_below():
    assert KEYS["strategy"].allowed == ", ".join(strategy_names())
    assert sorted(KEYS["model"].allowed.split(", ")) == sorted(model_names())
    assert sorted(KEYS["dataset"].allowed.split(", ")) == sorted(("auto", *dataset_names()))


@pytest.mark.parametrize("vectorise", KEYS["vectorise"].allowed.split(", "))
def test_the_documented_ways_to_vectorise_are_those_of_clients(vectorise):
    from fedeff.app.client import training_of

    def nothing(*_):
        raise AssertionError

    client_app(nothing, nothing, training_of(Settings()), vectorise=vectorise)


@pytest.mark.parametrize("name", strategy_names())
def test_a_strategy_and_the_settings_agree_on_shared_defaults(name):
    own = {setting.key: setting.default for setting in strategy_spec(name).settings}
    for key in own.keys() & KEYS.keys() - {"prox-mu"}:  # fedprox pulls by 0.1 unless told otherwise
        assert own[key] == KEYS[key].default


@pytest.mark.parametrize(
    ("given", "told", "own_training", "recorded"),
    [
        ({}, 0.1, 0.0, 0.1),
        ({"prox-mu": 0}, 0.0, 0.0, 0.0),
        ({"prox-mu": 0.0}, 0.0, 0.0, 0.0),
        ({"prox-mu": -1}, 0.1, 0.0, 0.1),
        ({"prox-mu": 0.3}, 0.3, 0.3, 0.3),
    ],
)
def test_fedprox_pulls_as_it_is_told_to_even_by_0(given, told, own_training, recorded):
    from fedeff.app.client import training_of

    settings = Settings.from_run_config({"strategy": "fedprox", **given})
    assert strategy_of(settings).train_config == {"prox-mu": told}
    assert training_of(settings).prox_mu == own_training
    assert settings.complete().prox_mu == recorded
    assert strategy_of(settings.complete()).train_config == {"prox-mu": told}


@pytest.mark.parametrize(("given", "pull"), [({}, 0.0), ({"prox-mu": 0.2}, 0.2)])
def test_any_strategys_clients_may_be_pulled(given, pull):
    from fedeff.app.client import training_of

    settings = Settings.from_run_config({"strategy": "fedlama", **given})
    assert training_of(settings).prox_mu == settings.complete().prox_mu == pull


def test_a_pull_below_0_is_refused():
    with pytest.raises(ConfigError, match=r"prox-mu = -0\.5 is not possible; allowed: at least 0, or -1"):
        Settings.from_run_config({"prox-mu": -0.5})


@pytest.mark.parametrize("optimizer", KEYS["optimizer"].allowed.split(", "))
def test_clients_take_every_documented_optimizer(optimizer):
    from fedeff.app.client import training_of

    momentum = 0.9 if optimizer == "momentum" else 0.0
    settings = Settings(optimizer=optimizer, momentum=momentum)
    assert training_of(settings).optimizer == optimizer


def test_clients_are_perturbed_and_keep_curvature_as_they_are_told():
    from fedeff.app.client import training_of

    given = {"perturbation": "ada-smooth-out", "perturbation-radius": 0.2, "optimizer": "slim-qn"}
    training = training_of(
        Settings.from_run_config(
            {**given, "qn-history": 3, "qn-interval": 5, "qn-beta": 0.5, "qn-damping": 0.2}
        )
    )
    assert (training.perturbation, training.perturbation_radius) == ("ada-smooth-out", 0.2)
    assert (training.qn_history, training.qn_interval) == (3, 5)
    assert (training.qn_beta, training.qn_damping) == (0.5, 0.2)


def test_settings_of_any_strategy_are_taken_and_each_reads_its_own():
    settings = Settings.from_run_config({"phi": 4, "buffer": 3, "strategy": "fedlama"})
    assert settings.own == (("buffer", 3), ("phi", 4))
    assert strategy_of(settings).phi == 4
    complete = settings.complete()
    assert dict(complete.own) == {
        "phi": 4,
        "rule": "inclusive",
        "discrepancy-ema": 0.0,
        "first-cycle-rounds": 0,
        "keep-optimizer": False,
    }
    assert Settings.from_run_config(complete.run_config()) == complete


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("phi", 2.5, "phi = 2.5 is not of type int"), ("phy", 2, "did you mean 'phi'")],
)
def test_a_strategys_setting_is_checked_like_any(key, value, said):
    with pytest.raises(ConfigError, match=said):
        Settings.from_run_config({key: value})


def test_a_strategy_is_told_its_settings():
    made = strategy_of(Settings(strategy="fedlama", cohort=7, own=(("phi", 5),), seed=3, fold="workers"))
    assert (made.cohort, made.phi, made.seed, made.fold) == (7, 5, 3, "workers")


def test_the_app_folder_of_the_repository_holds_the_defaults():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"] == {doc.key: doc.default for doc in KEYS.values()}


@pytest.mark.parametrize("key", ["cohort", "evaluate-clients"])
def test_more_than_all_clients_are_refused(key):
    settings = Settings.from_run_config({"cohort": 1, key: 11})
    with pytest.raises(ConfigError, match=f"{key} = 11, but there are 10 clients"):
        settings.check_clients(10)
    settings.check_clients(11)
