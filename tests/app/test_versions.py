"""Runs whose model becomes smaller: the server decides, clients follow, records tell."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.run import Plan, continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.settings import Settings
from fedeff.app.versions import ModelVersions, ShrinkPlan, plan_of, sparsity_of
from fedeff.core.errors import ConfigError, EngineError, ResumeError
from fedeff.core.layers import decode_record, encode_record
from fedeff.models import Structure, apply, build
from fedeff.strategies import strategy_names

pytestmark = pytest.mark.usefixtures("no_report")

SPARSE = {
    "model": "mlp",
    "sparsity": "ssl",
    "sparsity_strength": 0.05,
    "sparsity_threshold": 0.04,
    "sparsity_rounds": 6,
    "shrink_every": 2,
    "num_server_rounds": 8,
    "learning_rate": 0.1,
}


def weights_of(module):
    return encode_record({key: value.numpy().copy() for key, value in module.state_dict().items()})


def half_dead(name="mlp"):
    """A model with every second unit zeroed, by what makes it."""
    model = build(name)
    state = model.state_dict()
    for key in ("fc1.weight", "fc1.bias"):
        state[key][::2] = 0
    return model


# The plan


@given(every=st.integers(0, 4), rounds=st.integers(1, 12), lengths=st.lists(st.integers(1, 5), min_size=1))
def test_a_cut_is_due_once_for_every_so_many_rounds_and_at_the_penaltys_end(every, rounds, lengths):
    """Whole models come at the ends of cycles of any length; each falls due for the rounds since the last."""
    plan, first, cut = ShrinkPlan("ssl", rounds, every), 1, []
    for length in lengths:
        last = first + length - 1
        if plan.due(first, last):
            cut.append(last)
        scheduled = [r for r in range(first, last + 1) if every and r % every == 0]
        assert plan.due(first, last) == (bool(scheduled) or last >= rounds)
        first = last + 1


def test_filters_are_decomposed_at_the_end_alone():
    plan = ShrinkPlan("force", 6, every=2)
    assert [plan.due(r, r) for r in range(1, 8)] == [False] * 5 + [True, True]


# The server's half


def test_the_smaller_model_gives_the_same_and_messages_name_it():
    versions = ModelVersions(lambda: build("mlp"), ShrinkPlan("ssl", 4, every=2))
    assert versions.told() == {"model-version": 0, "structure": "{}", "penalty": True}
    model = half_dead()
    assert versions.after(1, 1, weights_of(model)) is None
    smaller = versions.after(2, 2, weights_of(model))
    kept = tuple(range(1, 64, 2))
    assert versions.structure == Structure(1, {"fc1": kept})
    assert versions.told() == {"model-version": 1, "structure": versions.structure.json, "penalty": True}
    small = versions.module()
    small.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in decode_record(smaller).items()})
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-6)
    rebuilt = apply(Structure.from_json(versions.told()["structure"]), build("mlp"))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in small.state_dict().items()
    }
    # Nothing more to cut, but the penalty ends.
    assert versions.after(3, 4, smaller) is None
    assert versions.told()["model-version"] == 1
    assert versions.told()["penalty"] is False
    assert versions.after(5, 8, smaller) is None


def test_a_model_that_is_not_whole_is_left_alone():
    versions = ModelVersions(lambda: build("mlp"), ShrinkPlan("ssl", 2))
    assert versions.after(4, 3, weights_of(half_dead())) is None
    assert not versions.fine_tuning
    assert versions.after(2, 4, weights_of(half_dead())) is not None
    assert versions.fine_tuning


def test_without_a_plan_messages_say_nothing_of_versions():
    versions = ModelVersions(lambda: build("mlp"))
    assert versions.told() == {}
    assert versions.after(1, 1, weights_of(half_dead())) is None
    assert versions.state() == {}


def test_versions_go_on_from_their_state():
    versions = ModelVersions(lambda: build("mlp"), ShrinkPlan("ssl", 2))
    versions.after(2, 2, weights_of(half_dead()))
    resumed = ModelVersions(lambda: build("mlp"), ShrinkPlan("ssl", 2))
    resumed.restore(versions.state())
    assert resumed.told() == versions.told()
    assert resumed.module().state_dict()["fc1.weight"].shape == (32, 784)
    with pytest.raises(ResumeError, match="model version cannot be read"):
        resumed.restore({"about": np.frombuffer(b"{}", np.uint8)})


# Whole runs


def run(tiny, path, **changes):
    return simulate(tiny(**(SPARSE | changes)), path)


def sizes(folder):
    return [record.parameters for record in folder.rounds()]


def test_a_run_becomes_smaller_and_its_bytes_with_it(tiny, tmp_path):
    folder = run(tiny, tmp_path / "ssl")
    rounds = folder.rounds()
    assert sizes(folder)[0] == 64 * 65 + 650
    assert sizes(folder)[-1] < sizes(folder)[0]
    assert sizes(folder) == sorted(sizes(folder), reverse=True)
    for record in rounds:
        per_reply = record.uplink_bytes / record.arrived
        assert 4 * record.parameters < per_reply < 4 * record.parameters + 1000
        assert (record.errors, record.refused, record.need_full) == (0, 0, 0)
    changed = [b.server_round for a, b in itertools.pairwise(rounds) if a.parameters != b.parameters]
    assert changed
    assert all(number - 1 in (2, 4, 6) for number in changed)
    assert all(record.accuracy is not None for record in rounds)


def test_force_decomposes_when_its_rounds_are_over(tiny, tmp_path):
    folder = run(
        tiny, tmp_path / "force", model="cnn", sparsity="force", sparsity_strength=0.02, rank_error=0.3
    )
    assert sizes(folder)[:6] == [sizes(folder)[0]] * 6
    assert sizes(folder)[6] == sizes(folder)[7] < sizes(folder)[0]


@pytest.mark.parametrize("strategy", [s for s in strategy_names() if Settings(strategy=s).clients_step])
def test_every_strategy_follows(strategy, tiny, tmp_path):
    """Cohorts that stay for cycles, momentum of the server, messages under way: none meets the old model."""
    own = {
        "fedlama": {"phi": 2},
        "partial": {"groups": 2, "overlap": True},
        "fedbuff": {"buffer": 2},
        "hierarchical": {"topology": "2", "global_every": 3},
        "diloco": {"inner_optimizer": "sgd", "inner_learning_rate": 0.1, "keep_optimizer": True},
        "two-phase": {"power_iterations": 2, "curvature_clients": 1},
    }.get(strategy, {})
    own.pop("keep_optimizer", None)
    folder = run(tiny, tmp_path / strategy, strategy=strategy, sparsity_threshold=0.06, **own)
    assert sizes(folder)[-1] < sizes(folder)[0]
    rounds = folder.rounds()
    assert sum(record.errors for record in rounds) == 0
    # Asynchronous strategies refuse what was under way when the model changed.
    if strategy not in ("delayed", "fedbuff"):
        assert sum(record.refused + record.need_full for record in rounds) == 0


@pytest.mark.parametrize(
    "codec", ["error_feedback(top_k(0.2))", "power_sgd(2)", "tern_grad", "ef21(top_k(0.2))"]
)
def test_codecs_begin_anew_with_each_version(codec, tiny, tmp_path):
    folder = run(tiny, tmp_path / "coded", codec=codec, strategy="fedlama", phi=2, sparsity_threshold=0.08)
    assert sizes(folder)[-1] < sizes(folder)[0]
    assert sum(r.errors + r.refused + r.need_full for r in folder.rounds()) == 0


def left_by(folder):
    files = sorted(folder.checkpoints.iterdir())
    told = [(r.server_round, r.accuracy, r.uplink_bytes, r.parameters) for r in folder.rounds()]
    return {file.name: file.read_bytes() for file in files}, told


@pytest.mark.parametrize("strategy", ["fedavg", "fedlama", "fedluar"])
@pytest.mark.parametrize("stop_after", [2, 5, 7])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(strategy, stop_after, tiny, tmp_path):
    plan = tiny(**(SPARSE | {"strategy": strategy}))
    whole = simulate(plan, tmp_path / "whole")

    def stop(record):
        if record.server_round == stop_after:
            raise EngineError("no more")

    with pytest.raises(EngineError):
        simulate(plan, tmp_path / "stopped", stop)
    resumed = continue_run(RunFolder.open(tmp_path / "stopped"))
    assert left_by(resumed) == left_by(whole)


def test_records_of_runs_without_sparsity_tell_the_size_too(tiny, tmp_path):
    folder = simulate(tiny(), tmp_path / "plain")
    assert sizes(folder) == [650] * 3


# Settings


def settings(**changes):
    return Settings(**{"dataset": "digits", "model": "mlp", "sparsity": "ssl"} | changes)


def test_defaults():
    assert sparsity_of(Settings()) is None
    assert plan_of(Settings()) is None
    assert plan_of(settings(num_server_rounds=20)) == ShrinkPlan("ssl", 13, 5, 0.01, 0.05)
    assert sparsity_of(settings()).strength > 0
    assert sparsity_of(settings(sparsity_strength=0.3)).strength == 0.3
    assert sparsity_of(settings(sparsity_groups="filters+depth")).groups == ("filters", "depth")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sparsity": "sll"}, "did you mean 'ssl'"),
        ({"sparsity_groups": "filter"}, "group of weights 'filter'; did you mean 'filters'"),
        ({"sparsity": "iss"}, "Perceptron has no hidden units"),
        ({"sparsity": "force"}, "Perceptron has no convolutions"),
        ({"sparsity_groups": "depth"}, "Perceptron has no groups depth"),
        ({"num_server_rounds": 1}, "none of the 1 rounds has a smaller model"),
        (
            {"sparsity_rounds": 30, "shrink_every": 0},
            "sparsity-rounds = 30 and shrink-every = 0 none of the 30",
        ),
        ({"strategy": "adaptive-update"}, "whose clients take no steps that a penalty could bend"),
        (
            {"strategy": "gradient-coding", "cohort": 12},
            "whose clients take no steps that a penalty could bend",
        ),
        ({"force_norm": "l3"}, "force-norm 'l3'"),
        ({"sparsity_threshold": -0.1}, "sparsity-threshold = -0.1"),
    ],
)
def test_what_cannot_be_made_sparse_is_refused_before_the_run(changes, complaint, tiny):
    runtime = tiny().runtime
    with pytest.raises(ConfigError, match=complaint):
        Plan(settings(**({"cohort": 4} | changes)), runtime).checked()
