"""Views of the production path: what they hold is what clients sent, told apart from what they trained on."""

import gc
import pickle
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from audit.capturing import CLIENTS, check, gathered, gradients, retrained, samples_of, small

from fedeff.app import workload
from fedeff.audit.capturing.capture import capture, public_of
from fedeff.audit.capturing.dialogue import parsed
from fedeff.audit.capturing.knowledge import Knowledge
from fedeff.audit.capturing.local_model import LocalModel
from fedeff.clients import LocalTraining
from fedeff.clients.messages import CycleRequest, Request
from fedeff.core.errors import AuditError, ConfigError
from fedeff.core.layers import hold_record
from fedeff.core.rng import generator
from fedeff.data import Dataset, Split


def test_one_row_and_one_step_tell_the_gradient():
    settings = small(local_steps=1, batch_size=1)
    threads = torch.get_num_threads()
    shown = capture(settings, CLIENTS)
    assert torch.get_num_threads() == threads
    assert [one.partition for one in shown] == list(range(CLIENTS))
    for one in shown:
        (exchange,) = one.view.exchanges
        assert (len(one.truth), exchange.rows, exchange.steps) == (1, 1, 1)
        found = gradients(exchange, one.view.public.network(), one.truth.inputs, one.truth.labels)
        assert exchange.told.keys() == found.keys() == exchange.weights.keys()
        for key, gradient in found.items():
            told = exchange.told[key]
            assert told.known is None
            assert told.std == 0.0
            # Weights travel as float32: a change is exact to half a unit in their last place.
            np.testing.assert_allclose(told.values, -0.05 * gradient, atol=1.5e-8, rtol=1e-6)
        assert one.wire_bytes >= 4 * sum(values.size for values in exchange.weights.values())
        assert one.view.labels is None


def test_an_informed_attacker_knows_the_labels_and_no_order():
    (one,) = capture(small(), CLIENTS, victims=[2], informed=True)
    np.testing.assert_array_equal(one.view.labels, np.sort(one.truth.labels))


RUNS: dict[
    str, tuple[dict[str, Any], int]
] = {  # settings, and how many of a victim's exchanges are not stale
    "fedavg": ({"local_steps": 0, "batch_size": 64}, 3),
    "fedprox": ({"strategy": "fedprox", "own": {}}, 3),
    "momentum, a schedule": (
        {"optimizer": "momentum", "momentum": 0.9, "learning_rate_schedule": "linear"},
        3,
    ),
    "partial": ({"strategy": "partial", "own": {"groups": 2}}, 2),
    "partial by channel, overlapped": (
        {"strategy": "partial", "own": {"groups": 3, "by": "channel", "overlap": True}},
        1,
    ),
    "fedlama": ({"strategy": "fedlama"}, 3),
    "fedluar": ({"strategy": "fedluar"}, 3),
    "delayed": ({"strategy": "delayed"}, 3),
    "adaptive-batch": ({"strategy": "adaptive-batch", "local_steps": 0, "batch_size": 32}, 3),
    "down codec": ({"down_codec": "uniform(4)", "down_difference": True}, 3),
    "codec": ({"codec": "top_k(0.1)", "strategy": "partial", "own": {"groups": 2}}, 2),
    "coded both ways": (
        {"codec": "top_k(0.3)", "down_codec": "uniform(4)", "down_difference": True},
        3,
    ),
    "displacements, coded": ({"strategy": "delayed", "codec": "top_k(0.2)"}, 1),
    "fedpara": ({"low_rank": "fedpara"}, 3),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_client_that_trains_from_the_views_weights_tells_what_the_view_says(name):
    changes, exact = RUNS[name]
    settings = small(**changes)
    shown = capture(settings, CLIENTS, victims=range(CLIENTS), rounds=3)
    for one in (shown[0], shown[-1]):
        assert [exchange.server_round for exchange in one.view.exchanges] == [1, 2, 3]
        clean = [exchange for exchange in one.view.exchanges if not exchange.stale]
        assert len(clean) >= exact
        for exchange in clean:
            check(exchange, retrained(settings, one.partition, exchange))


def test_within_a_cycle_due_layers_travel_and_weights_that_were_not_told_are_said_to_be_stale():
    settings = small(strategy="partial", own={"groups": 2})
    one = capture(settings, CLIENTS, rounds=3)[0]
    first, second, third = one.view.exchanges
    everything = set(first.weights)
    assert set(first.told) < everything
    assert set(second.told) == everything
    sent = set(first.told)  # its mean came down with the next message
    assert second.stale == everything - sent
    assert not first.stale
    assert not third.stale
    assert third.told.keys() == first.told.keys()  # a run that went on would not send all in this round
    assert not third.goes_on


def test_moments_that_a_client_kept_are_said_to_be_unknown():
    own = {"groups": 2, "keep-optimizer": True}
    settings = small(strategy="partial", own=own, optimizer="momentum", momentum=0.9)
    (one,) = capture(settings, CLIENTS, victims=[0], rounds=3)
    assert [exchange.goes_on for exchange in one.view.exchanges] == [False, True, True]


def test_a_view_travels_to_other_processes():
    (one,) = capture(small(), CLIENTS, victims=[0])
    found = pickle.loads(pickle.dumps(one.view))
    assert found.public.network().state_dict().keys() == one.view.public.network().state_dict().keys()
    np.testing.assert_array_equal(found.first.told["fc1.bias"].values, one.view.first.told["fc1.bias"].values)


def test_rows_that_are_parts_of_an_array_are_known_and_no_others():
    settings = small(strategy="partial", own={"groups": 3, "by": "channel"})
    (first,) = capture(settings, CLIENTS, victims=[0])[0].view.exchanges
    expected = retrained(settings, 0, first)
    check(first, expected)
    masks = {key: one.mask for key, one in first.told.items()}
    assert any(mask.any() and not mask.all() for mask in masks.values())
    for mask in masks.values():  # whole rows
        by_row = mask.reshape(len(mask), -1)
        np.testing.assert_array_equal(by_row.all(axis=1), by_row.any(axis=1))


def test_gradients_that_clients_gather_are_of_all_the_rounds_that_they_are_the_mean_of():
    settings = small(strategy="adaptive-update")
    (one,) = capture(settings, CLIENTS, victims=[1], rounds=3)
    (first,) = one.view.exchanges
    assert first.kind == "gradient"
    rounds = range(1, first.server_round + 1)  # none was due before
    assert (first.training.steps, first.steps) == (2 * len(rounds), 1)
    known = {key: one for key, one in first.told.items() if one.known is None}
    assert known
    check(replace(first, told=known), gathered(settings, 1, first, rounds), atol=1e-6)
    held = samples_of(settings, 1)
    plans = [
        generator(0, purpose="batches", round=number, client=1).permutation(len(held)) for number in rounds
    ]
    rows = sorted({row for plan in plans for row in plan[:8]})
    np.testing.assert_array_equal(one.truth.inputs, held.x.numpy()[rows])


def test_weights_that_a_noisy_client_goes_on_with_are_said_to_be_stale():
    settings = small(strategy="delayed", local_noise_multiplier=0.01)
    (one,) = capture(settings, CLIENTS, victims=[0], rounds=2)
    first, second = one.view.exchanges
    assert not first.stale
    assert second.stale == set(first.weights)


def test_an_entry_that_was_not_known_stays_unknown_whatever_is_told_of_its_changes():
    model, training = LocalModel(), LocalTraining()
    weights = {"w": np.zeros(2, np.float32)}

    def request(turn, arrays):
        cycle = CycleRequest((1, turn), None, keep_sent=False, corrects=(), correction={})
        asked = (0, 1, turn + 1, training, arrays, None, "displacement")
        return Request(None, *asked, cycle=cycle)  # type: ignore[arg-type]

    seen = []
    for turn, mask in enumerate([np.array([True, False]), None, None]):
        asked = request(turn, {} if turn else weights)
        before = model.before(asked)
        seen.append(before.unsure["w"].tolist())
        told = Knowledge(np.ones(2), mask)
        model.after(asked, {"w": told}, {"w": before.weights["w"] + told.values})
    assert seen == [[False, False], [False, True], [False, True]]


def test_the_truth_is_the_rows_that_were_trained_on():
    settings = small(local_steps=3, batch_size=4)
    one = capture(settings, CLIENTS, victims=[3], rounds=2)[0]
    assert not one.view.same_rows
    assert 12 < len(one.truth) <= 24
    held = samples_of(settings, 3).x.numpy().reshape(-1, 64)
    assert {row.tobytes() for row in one.truth.inputs.reshape(-1, 64)} <= {row.tobytes() for row in held}
    whole = capture(small(local_steps=0, local_epochs=2, batch_size=100), CLIENTS, victims=[3], rounds=2)[0]
    assert whole.view.same_rows
    assert len(whole.truth) == len(held)
    # All rows in one batch: their gradient is the change, in whatever order they are.
    only = capture(small(local_steps=1, batch_size=500), CLIENTS, victims=[3])[0]
    found = gradients(only.view.first, only.view.public.network(), only.truth.inputs, only.truth.labels)
    check(only.view.first, {key: -0.05 * one for key, one in found.items()})


def test_text_is_captured_as_tokens(monkeypatch):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (40, 9))
    rows = Split(tokens[:, :-1], tokens[:, 1:])
    kinds = np.zeros(40, np.int64)
    text = Dataset(
        *("text", rows, rows, 12, (8,)),
        task="next-character",
        vocabulary="abcdefghijkl",
        strata=kinds,
        test_strata=kinds,
    )
    monkeypatch.setattr(workload, "resolve", lambda name, folder: ("shakespeare", ""))
    monkeypatch.setattr(workload, "_dataset", lambda name, folder: text)
    settings = small(
        dataset="shakespeare", model="gru", data_folder="text of this test", cohort=1, batch_size=2
    )
    (one,) = capture(settings, CLIENTS, victims=[1], informed=True)
    public = one.view.public
    assert (public.task, public.classes, public.input_shape, public.highest) == (
        "next-character",
        12,
        (8,),
        11,
    )
    assert (one.truth.inputs.dtype, one.truth.inputs.shape, one.truth.labels.shape) == (
        np.int64,
        (4, 8),
        (4, 8),
    )
    np.testing.assert_array_equal(one.truth.inputs[:, 1:], one.truth.labels[:, :-1])
    assert one.view.labels is None  # known they would be the text
    assert one.view.first.rows == 4


def test_what_is_public_of_images():
    public = public_of(small())
    assert (public.task, public.classes, public.input_shape) == ("classify", 10, (1, 8, 8))
    assert (public.lowest, public.highest) == (0.0, 1.0)


def test_values_are_read_from_bytes_and_not_from_memory_that_a_client_still_has():
    held = np.ones(3, np.float32)
    found = parsed(hold_record({"w": held}))["w"]
    held[:] = 2
    np.testing.assert_array_equal(found, 1)
    assert found.dtype == np.float64


def test_sums_on_the_workers_are_of_an_engine_not_of_what_travels():
    (one,) = capture(small(fold="workers"), CLIENTS, victims=[0])
    check(one.view.first, retrained(small(), 0, one.view.first))


def test_models_that_are_trained_already():
    fresh, later = (
        capture(small(), CLIENTS, victims=[0]),
        capture(small(), CLIENTS, victims=[0], after_round=3),
    )
    assert later[0].view.first.server_round == 4
    assert (
        np.abs(later[0].view.first.weights["fc1.weight"] - fresh[0].view.first.weights["fc1.weight"]).max()
        > 0
    )


def test_a_victim_takes_part_whatever_the_draw():
    (one,) = capture(small(cohort=1), CLIENTS, victims=[3], rounds=2)
    assert one.partition == 3
    assert len(one.view.exchanges) == 2


@pytest.mark.parametrize(
    ("settings", "asked", "said"),
    [
        (small(), {"victims": [99]}, "no client 99 among 4"),
        (small(), {"rounds": 0}, "expected 1 or more"),
        (small(), {"vantage": "thief"}, "expected server or released"),
        (small(cohort=2), {"victims": [0, 1, 2]}, "3 victims, but a round asks 2"),
        (small(cohort=50), {}, "cohort = 50, but there are 4 clients"),
    ],
)
def test_what_cannot_be_captured_is_refused(settings, asked, said):
    with pytest.raises(ConfigError, match=said):
        capture(settings, CLIENTS, **asked)


def test_what_an_exchange_cannot_tell_is_refused():
    with pytest.raises(AuditError, match="sends combinations of several clients' gradients"):
        capture(small(strategy="gradient-coding"), CLIENTS)
    with pytest.raises(AuditError, match="never leaves its client"):
        capture(small(low_rank="fedpara", personal_factors=True), CLIENTS)
    with pytest.raises(AuditError, match="client 1 sent no update in round 1"):
        capture(small(), CLIENTS, victims=[0, 1], lost=[1])


def reachable(start: Any) -> list[Any]:
    """All objects that references lead to; not what any code may import anyway: modules, classes, globals."""
    seen: dict[int, Any] = {}
    left = [start]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, ModuleType | type):
            continue
        seen[id(one)] = one
        if isinstance(one, FunctionType):
            left += [one.__closure__, one.__defaults__, one.__kwdefaults__, one.__dict__]
        else:
            left += gc.get_referents(one)
            left += [one.base] if isinstance(one, np.ndarray) else []
    return list(seen.values())


@pytest.mark.parametrize(
    "changes",
    [{}, {"codec": "top_k(0.1)"}, {"secure_aggregation": "lightsecagg"}, {"strategy": "delayed"}],
    ids=str,
)
def test_nothing_that_a_view_leads_to_is_or_holds_the_truth(changes):
    settings = small(local_steps=1, batch_size=3, **changes)
    one = capture(settings, CLIENTS)[0]
    found = reachable(one.view)
    assert any(each is one.view.first.told for each in found)  # it does look
    inputs = np.asarray(one.truth.inputs)
    rows = {row.astype(kind).tobytes() for row in inputs for kind in (np.float32, np.float64)}
    rows |= {np.rint(16 * row).astype(np.uint8).tobytes() for row in inputs}
    for each in found:
        if isinstance(each, torch.Tensor):
            each = each.detach().numpy()
        if isinstance(each, np.ndarray):
            assert not np.shares_memory(each, inputs)
            assert not np.shares_memory(each, one.truth.labels)
            each = each.tobytes()
        if isinstance(each, bytes | bytearray):
            assert not any(row in each for row in rows)
