import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fedeff.clients import LocalTraining
from fedeff.clients.accumulate import Accumulated, added, agreements, mean_gradient, means, without
from fedeff.clients.training import batches

KEYS = ["conv.weight", "conv.bias", "fc.weight", "scale"]
SHAPES = {"conv.weight": (2, 3), "conv.bias": (2,), "fc.weight": (3, 1), "scale": ()}
NOTHING = Accumulated({}, {})


def gradient(rng, keys=KEYS):
    return {key: np.asarray(rng.standard_normal(SHAPES[key]), np.float32) for key in keys}


def flat(arrays, layer):
    keys = [key for key in KEYS if key == layer or key.startswith(layer + ".")]
    return np.concatenate([arrays[key].ravel() for key in keys]).astype(np.float64)


@given(seed=st.integers(0, 2**32 - 1), due=st.lists(st.sets(st.sampled_from(["conv", "fc", "scale"]))))
def test_accumulating_equals_a_list_of_gradients(seed, due):
    """Against lists of gradients by layer, which are emptied when the layer is due."""
    rng, state = np.random.default_rng(seed), NOTHING
    lists = {"conv": [], "fc": [], "scale": []}
    for layers in due:
        new = gradient(rng)
        agreed = agreements(state, new, KEYS)
        state = added(state, new, KEYS)
        assert list(agreed) == list(lists)
        for layer, own in lists.items():
            old = sum((flat(one, layer) for one in own), np.zeros(flat(new, layer).shape))
            cosine = (
                old @ flat(new, layer) / np.linalg.norm(old) / np.linalg.norm(flat(new, layer)) if own else 1
            )
            assert agreed[layer] == pytest.approx(cosine, abs=1e-5)
            own.append(new)
        ordered = [layer for layer in lists if layer in layers]
        found = means(state, {key: np.zeros(SHAPES[key]) for key in KEYS}, ordered)
        for layer in ordered:
            expected = np.mean([flat(one, layer) for one in lists[layer]], axis=0)
            got = np.concatenate([v.ravel() for k, v in found.items() if k.split(".")[0] == layer])
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
            lists[layer] = []
        assert {v.dtype for v in found.values()} <= {np.dtype(np.float32)}
        state = without(state, layers)
        assert dict(state.counts) == {layer: len(own) for layer, own in lists.items() if own}
        assert {key.split(".")[0] for key in state.sums} == set(state.counts)


def test_directions_by_hand():
    held = Accumulated({"a.w": np.array([2.0, 0.0]), "b.w": np.array([1.0, 1.0])}, {"a": 2, "b": 1})
    new = {"a.w": np.array([3.0, 4.0]), "b.w": np.array([-1.0, -1.0])}
    assert agreements(held, new, ["a.w", "b.w"]) == pytest.approx({"a": 0.6, "b": -1.0})
    assert agreements(NOTHING, new, ["a.w", "b.w"]) == {"a": 1.0, "b": 1.0}
    still = {"a.w": np.zeros(2), "b.w": np.ones(2)}
    assert agreements(held, still, ["a.w", "b.w"]) == pytest.approx({"a": 1.0, "b": 1.0})


def test_arrays_without_a_gradient_have_a_mean_of_zero():
    state = added(NOTHING, gradient(np.random.default_rng(0), ["conv.weight"]), KEYS)
    weights = {key: np.ones(SHAPES[key], np.int64 if key == "scale" else np.float32) for key in KEYS}
    found = means(state, weights, ["conv", "scale"])
    assert list(found) == ["conv.weight", "conv.bias", "scale"]
    assert found["conv.weight"].any()
    assert not found["conv.bias"].any()
    assert found["scale"].dtype == np.int64
    assert agreements(state, gradient(np.random.default_rng(1), ["conv.weight"]), KEYS)["scale"] == 1.0


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_mean_gradient_equals_a_naive_loop(steps, make_model, make_samples, arrays_of):
    model, samples = make_model("mlp"), make_samples("mlp", 11)
    training = LocalTraining(steps=steps, batch_size=4, weight_decay=0.3, prox_mu=0.1)
    start = arrays_of(model)
    found = mean_gradient(make_model("mlp", 1), start, samples, training, np.random.default_rng(2))
    taken = LocalTraining(steps=max(steps, 1), batch_size=4)
    plan, losses = list(batches(11, taken, np.random.default_rng(2))), []
    sums = dict.fromkeys(start, 0.0)
    for rows in plan:
        loss = F.cross_entropy(model(samples.x[rows]), samples.y[rows])
        losses += [loss.item()] * len(rows)
        for (key, _), one in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            sums[key] = sums[key] + one.numpy() / len(plan)
    assert found.steps == len(plan) == max(steps, 1)
    assert found.examples == 11
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert found.arrays.keys() == sums.keys()
    for key, values in sums.items():
        np.testing.assert_allclose(found.arrays[key], values, rtol=0, atol=1e-6)


def test_frozen_parameters_have_no_gradient(make_samples, arrays_of):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 20), torch.nn.Linear(20, 10))
    model[1].weight.requires_grad_(False)
    found = mean_gradient(
        model, arrays_of(model), make_samples("mlp", 5), LocalTraining(), np.random.default_rng(0)
    )
    assert list(found.arrays) == ["1.bias", "2.weight", "2.bias"]


def test_running_statistics_move_with_the_gradients(make_samples, arrays_of):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 10), torch.nn.BatchNorm1d(10))
    samples, training = make_samples("mlp", 12), LocalTraining(steps=2, batch_size=6)
    start = arrays_of(model)
    found = mean_gradient(model, start, samples, training, np.random.default_rng(3))
    naive = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 10), torch.nn.BatchNorm1d(10))
    naive.load_state_dict({key: torch.from_numpy(values) for key, values in start.items()})
    for rows in batches(12, training, np.random.default_rng(3)):
        naive(samples.x[rows])
    assert found.buffers.keys() == dict(naive.named_buffers()).keys()
    for key, values in naive.named_buffers():
        np.testing.assert_allclose(found.buffers[key], values.numpy(), rtol=1e-6)
        assert not np.array_equal(found.buffers[key], start[key])
    assert "2.running_mean" not in found.arrays


def test_agreements_do_not_depend_on_how_many_threads_blas_has():
    rng = np.random.default_rng(0)
    held, new = ({"w": rng.standard_normal(1_000_003)} for _ in range(2))
    found = set()
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.add(agreements(Accumulated(held, {"w": 1}), new, ["w"])["w"])
    assert len(found) == 1
    assert found.pop() == pytest.approx(np.corrcoef(held["w"], new["w"])[0, 1], abs=1e-5)
