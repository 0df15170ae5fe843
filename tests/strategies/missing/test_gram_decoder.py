"""The decoder: where it begins, that it learns, who judges it, and when its gate lets it through."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.strategies.missing import Drift, GramDecoder, Past, Situation
from fedeff.strategies.missing.basis import DRIFT_CORRECTED, combined
from fedeff.strategies.missing.gate import Gate, Judgement
from fedeff.strategies.missing.labels import late_labels

HALVED = np.array([0.0, 0.5, 0.0, 0.0])


def taught(make_situation, truth: np.ndarray, rounds: int = 30, clients: int = 3, **options):
    """A decoder after rounds in which late clients and those in time did `truth` of their basis."""
    decoder = GramDecoder(seed=1, **options)
    for seed in range(rounds):
        decoder.learn(lesson(make_situation, truth, seed, clients))
    return decoder


def lesson(make_situation, truth: np.ndarray, seed: int, clients: int) -> Situation:
    """Clients 100 and on are late: they were asked in round 4, what was known of them is of round 2."""
    situation = make_situation(seed, came=12)
    history = situation.history
    asked = replace(situation, server_round=4, mean=history.means[4], model=history.models[4], missing=())
    rows = np.tile(truth, (len(situation.layers.slices), 1))
    rng = np.random.default_rng(seed)
    stale = {
        100 + n: Past(2, rng.normal(size=situation.layers.size).astype(np.float32), 2.0, in_time=False)
        for n in range(clients)
    }
    late = {
        node: Past(4, combined(rows, asked.basis(one), situation.layers), 2.0, in_time=False)
        for node, one in stale.items()
    }
    return replace(situation, late=late, stale_of_late=stale)


def error(decoder, make_situation, truth: np.ndarray) -> float:
    """Of the decoder itself, gate or no gate, on labels it has not seen; relative to the truth."""
    situation = lesson(make_situation, truth, 999, 4)
    (labels,) = late_labels(situation)
    wrong, norms = labels.errors(decoder.coefficients(labels.features))
    return float(np.mean(wrong / norms))


def test_it_begins_at_the_drift_corrected_update(make_situation):
    situation = make_situation(came=12)
    decoder = GramDecoder()
    features = np.random.default_rng(0).normal(size=(3, 2, 15))
    np.testing.assert_array_equal(decoder.coefficients(features), np.broadcast_to(DRIFT_CORRECTED, (3, 2, 4)))
    np.testing.assert_array_equal(decoder.estimate(situation)[0], Drift().estimate(situation)[0])
    assert decoder.trusted == ()


def test_it_learns_what_updates_do_and_its_gate_opens(make_situation):
    decoder = taught(make_situation, HALVED)
    assert error(decoder, make_situation, HALVED) < 0.3 * error(GramDecoder(), make_situation, HALVED)
    situation = make_situation(999, came=12)
    known = replace(situation.history, latest=situation.history.latest | {100: situation.history.latest[0]})
    found = decoder.estimate(replace(situation, history=known, missing=(0, 100)))
    assert decoder.trusted == (0, 100)  # 0 has no labels of its own: those of all count
    assert not np.array_equal(found[100], Drift().estimate(situation)[0])


def test_where_drift_is_right_nobody_is_estimated_otherwise(make_situation):
    decoder = taught(make_situation, DRIFT_CORRECTED, rounds=6)
    situation = make_situation(999, came=12)
    np.testing.assert_array_equal(decoder.estimate(situation)[0], Drift().estimate(situation)[0])
    assert decoder.trusted == ()


def test_erased_clients_teach_but_do_not_judge(make_situation):
    decoder = GramDecoder()
    for seed in range(5):
        decoder.learn(make_situation(seed, came=12))
    assert [one.late for one in decoder._known] == [False] * 5
    decoder.estimate(make_situation(9, came=12))
    assert decoder.trusted == ()
    assert any(network.parameters["w2"].any() for network in decoder._networks)


def test_a_network_never_learns_what_it_judges(make_situation):
    decoder = GramDecoder()
    decoder.learn(make_situation(0, came=12))  # one group of labels: of fold 0
    first, second = decoder._networks
    assert first.parameters["w2"].any()
    assert not second.parameters["w2"].any()
    with_late = taught(make_situation, HALVED, rounds=3)
    for one in with_late._known:
        judge = with_late._networks[1 - one.fold]
        taught_by = [other.labels for other in with_late._known if other.fold == 1 - one.fold]
        assert all(labels is not one.labels for labels in taught_by)
        assert judge is not with_late._networks[one.fold]


def test_it_keeps_so_many_labels(make_situation):
    decoder = taught(make_situation, HALVED, rounds=10, buffer=60)
    layers = 2
    assert sum(len(one.labels) for one in decoder._known) * layers <= 60
    assert len(decoder._known) > 3


def test_its_work_does_not_grow_with_the_model(make_situation):
    """A label is its Gram matrices: of the vectors nothing is kept but what is held to be missing."""
    decoder = taught(make_situation, HALVED, rounds=2)
    for one in decoder._known:
        clients = len(one.labels)
        assert one.labels.gram.shape == (2, 5 * clients, 5 * clients)
        assert one.labels.features.shape == (clients, 2, 15)


@given(
    judgements=st.lists(
        st.builds(Judgement, st.integers(0, 3), st.floats(0.1, 1), st.floats(0, 5), st.floats(0, 5)),
        max_size=12,
    )
)
def test_the_gate_is_never_open_where_the_error_seen_is_not_lower(judgements):
    gate = Gate(judgements)
    for node in range(5):
        own = [one for one in judgements if one.node == node] or judgements
        ours = sum(one.weight * one.ours for one in own)
        reference = sum(one.weight * one.reference for one in own)
        if abs(ours - reference) > 1e-9:
            assert gate.trusts(node) == (ours < reference)
    if not judgements:
        assert not gate.trusts(0)


def test_an_old_judgement_counts_less():
    fresh, old = Judgement(1, 1.0, 2.0, 1.0), Judgement(1, 0.9**20, 0.0, 4.0)
    assert not Gate([fresh, old]).trusts(1)
    assert Gate([old]).trusts(1)


@pytest.mark.parametrize("name", ["hidden", "steps", "batch", "buffer"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0, expected 1 or more"):
        GramDecoder(**{name: 0})
