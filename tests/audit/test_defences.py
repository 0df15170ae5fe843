"""Defences by name: settings that a user can give, names that compose, and runs that go through."""

import pytest

from fedeff.app.client import client_app_of
from fedeff.app.overrides import parse_overrides
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.audit.defences.epsilon import true_epsilon
from fedeff.audit.defences.table import defence_names, defence_of, fix_candidates
from fedeff.core.errors import ConfigError
from fedeff.core.records import RoundRecord
from fedeff.simulation import run_simulation

BASE = Settings(dataset="digits", model="mlp", partition="iid", cohort=10, num_server_rounds=1, local_steps=2)


@pytest.mark.parametrize("name", [*defence_names(), "central(1)", "clip(0.1)+gaussian(0.001)+fp16"])
def test_every_defence_runs_a_round_of_the_built_in_app(name):
    settings, records = defence_of(name).settings(BASE), list[RoundRecord]()
    run_simulation(
        server_app(on_round=records.append),
        client_app_of(settings),
        10,
        run_config=settings.run_config(),
        engine="inline",
    )
    (record,) = records
    assert (record.arrived, record.refused) == (10, 0)
    private = name.startswith(("local_dp", "dp_sgd", "central", "clip(0.1)+"))
    assert (true_epsilon(settings, against="released") is not None) == private


def test_there_are_enough_for_the_matrix_and_each_says_what_it_is():
    names = defence_names()
    assert len(names) == len(set(names)) >= 12
    assert names[0] == "none"
    assert len({defence_of(name).summary for name in names}) == len(names)


@pytest.mark.parametrize("name", defence_names())
def test_a_defence_is_what_the_command_line_can_say(name):
    defence = defence_of(name)
    pairs = [f"{key}={_shown(value)}" for key, value in defence.changes(BASE).items()]
    told = Settings.from_run_config({**BASE.run_config(), **parse_overrides(pairs)})
    assert told == defence.settings(BASE)
    assert defence.name == name


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("none", {}),
        ("fp16", {"codec": "half"}),
        ("int8", {"codec": "uniform(8)"}),
        ("top_k(0.1)+half", {"codec": "chain(top_k(0.1), half)"}),
        ("top_k(0.1)+fp16+batch(32)", {"codec": "chain(top_k(0.1), half)", "batch-size": 32}),
        ("error_feedback(top_k(0.01))", {"codec": "error_feedback(top_k(0.01))"}),
        ('per_layer({"fc1.*": raw, "*": tern_grad})', {"codec": 'per_layer({"fc1.*": raw, "*": tern_grad})'}),
        ("clip(0.5)+gaussian(0.1)", {"local-clipping-norm": 0.5, "local-noise-multiplier": 0.2}),
        ("gaussian(0.1)+clip(0.5)", {"local-clipping-norm": 0.5, "local-noise-multiplier": 0.2}),
        ("local-steps(7) + secure(4)", {"local-steps": 7, "cohort": 4, "secure-aggregation": "lightsecagg"}),
        ("dp_sgd(1.5, 0.2)", {"dp-sgd-noise-multiplier": 1.5, "dp-sgd-clipping-norm": 0.2}),
    ],
)
def test_names_compose(name, changes):
    found = defence_of(name).changes(BASE)
    assert found == {key: pytest.approx(v) if isinstance(v, float) else v for key, v in changes.items()}


def test_local_dp_is_of_the_epsilon_that_it_names():
    settings = defence_of("local_dp(2, 0.3)").settings(BASE)
    assert settings.local_clipping_norm == 0.3
    assert true_epsilon(settings) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gausian(1)", "unknown defence 'gausian'; did you mean 'gaussian'"),
        ("topk(0.1)", "did you mean 'top_k'"),
        ("none+", "unknown defence ''"),
        ("", "unknown defence ''"),
        ("gaussian", "lacks a number, expected gaussian(STD)"),
        ("gaussian(much)", "expected numbers: gaussian(STD)"),
        ("batch(1, 2)", "got 2 numbers, expected batch(ROWS)"),
        ("batch(2)+batch(3)", "has batch twice"),
        ("top_k(0.1", "top_k(0.1"),
        ("top_k(2)", "fraction"),
    ],
)
def test_a_wrong_name_is_an_error_and_never_nothing(name, said):
    with pytest.raises(ConfigError) as refused:
        defence_of(name)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("secure(10)+tern_grad", "not linear"),
        ("half+top_k(0.1)", "selects"),
        ("batch(2.5)", "batch-size = 2.5 is not a whole number"),
        ("gaussian(0.1)+error_feedback(top_k(0.1))", "remembers"),
    ],
)
def test_what_does_not_go_together_is_refused(name, said):
    with pytest.raises(ConfigError) as refused:
        defence_of(name).settings(BASE)
    assert said in str(refused.value)


def test_fixes_fit_the_settings_and_change_something():
    names = [fix.name for fix in fix_candidates(BASE)]
    assert names[:2] == ["batch(32)", "local_steps(10)"]
    assert names[-1] == "local_dp(1)"
    coded = Settings(codec="error_feedback(tern_grad)", batch_size=32, dataset="digits")
    left = {fix.name for fix in fix_candidates(coded)}
    assert left == {"local_steps(10)", "dp_sgd(1)"}
