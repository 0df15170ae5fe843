"""What one call of `fit` promises, on a tiny function and tiny data."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.codes.learned import LearnedCode, PackedCode, ParityModel, ResidualCode, fit, function_digest
from fedeff.codes.learned.erasures import missing_patterns
from fedeff.codes.learned.network import CodeNetwork, Shapes
from fedeff.codes.learned.training import Budget, TrainingSet, train
from fedeff.core.errors import CodeError, ConfigError

RECIPES = [
    LearnedCode(2, 1),
    LearnedCode(2, 2, "conv", "cross-entropy"),
    ParityModel(3, 1),
    ParityModel(2, 2, "concat"),
    ResidualCode(3, 2),
    ResidualCode(2, 1, "own"),
    PackedCode(4, 2),
]


def arrays_of(code, samples, dtype=np.float32):
    """Inputs of a group, and outputs that look like some."""
    rng = np.random.default_rng(5)
    outputs = rng.standard_normal((code.k + code.r, 4)).astype(dtype)
    return samples[: code.k].numpy().astype(dtype), outputs


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_fit_gives_a_code_and_less_loss(recipe, function, samples):
    code = fit(recipe, function, samples, steps=80)
    assert code.record.last_loss < 0.9 * code.record.first_loss
    assert code.record.steps == 80
    assert code.record.restarts == 0
    assert (code.k, code.r, code.systematic) == (recipe.k, recipe.r, True)
    assert len(code.parity_models) in (0, recipe.r)
    _check_identity(code, samples)
    for dtype in (np.float32, np.float64):
        inputs, outputs = arrays_of(code, samples, dtype)
        parities = code.encode(inputs)
        assert parities.shape == (recipe.r, 1, 6, 6)
        assert parities.dtype == dtype
        for mask in missing_patterns(recipe.k, recipe.r, limit=99, rng=np.random.default_rng(0)):
            left = np.where(mask[:, None], outputs, np.nan).astype(dtype)
            assert code.decodable(mask)
            decoded = code.decode(left, mask)
            own = mask[: recipe.k]
            assert decoded.values.dtype == dtype
            assert decoded.values[own].tobytes() == outputs[: recipe.k][own].tobytes()
            assert np.isfinite(decoded.values).all()
            assert (decoded.quality[own] == 1).all()
            assert ((decoded.quality >= 0) & (decoded.quality <= 1)).all()


def _check_identity(code, samples):
    """With nothing missing."""
    outputs = arrays_of(code, samples)[1]
    decoded = code.decode(outputs, np.ones(code.k + code.r, np.bool_))
    assert decoded.values.tobytes() == outputs[: code.k].tobytes()
    assert decoded.quality.tolist() == [1] * code.k


@pytest.mark.parametrize("recipe", [ResidualCode(2, 1), PackedCode(2, 1)], ids=repr)
def test_steps_repeat_bit_for_bit_and_seeds_differ(recipe, function, samples):
    state = torch.random.get_rng_state()
    codes = [fit(recipe, function, samples, steps=5, seed=seed) for seed in (0, 0, 1)]
    inputs = arrays_of(codes[0], samples)[0]
    first, same, other = (code.encode(inputs) for code in codes)
    assert first.tobytes() == same.tobytes()
    assert codes[0].record.last_loss == codes[1].record.last_loss
    assert not np.array_equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_fitted_code_survives_pickling(function, samples):
    code = fit(PackedCode(2, 1), function, samples, steps=2)
    again = pickle.loads(pickle.dumps(code))
    inputs = arrays_of(code, samples)[0]
    assert again.recipe == code.recipe
    assert again.encode(inputs).tobytes() == code.encode(inputs).tobytes()


@pytest.mark.parametrize("recipe", [LearnedCode(2, 1), ResidualCode(2, 1, "own")], ids=repr)
@pytest.mark.parametrize("fails", [False, True])
def test_the_function_is_as_it_was(recipe, fails, function, samples):
    function[1].weight.requires_grad_(False)
    function[2].eval()
    before, threads = function_digest(function), torch.get_num_threads()
    modes = [module.training for module in function.modules()]
    wanted = [parameter.requires_grad for parameter in function.parameters()]

    def interrupt(progress):
        assert not any(module.training for module in function.modules())
        assert not any(parameter.requires_grad for parameter in function.parameters())
        if fails:
            raise KeyboardInterrupt

    try:
        fit(recipe, function, samples, steps=3, progress=interrupt)
    except KeyboardInterrupt:
        assert fails
    assert function_digest(function) == before
    assert [module.training for module in function.modules()] == modes
    assert [parameter.requires_grad for parameter in function.parameters()] == wanted
    assert all(parameter.grad is None for parameter in function.parameters())
    assert torch.get_num_threads() == threads


def test_quality_is_what_training_is_for(function, samples):
    untrained = fit(PackedCode(1, 1), function, samples, steps=1)
    trained = fit(PackedCode(1, 1), function, samples, steps=150)
    assert np.nanmean(trained.pattern_quality.shares) > np.nanmean(untrained.pattern_quality.shares) + 0.1


class Stubborn(CodeNetwork):
    """Learns to say one number; those of the first `deaf` copies never do."""

    made = 0

    def __init__(self, deaf, value=1.0):
        super().__init__(1, 1, Shapes((2,), (2,)))
        Stubborn.made += 1
        self.deaf, self.value = Stubborn.made <= deaf, value
        self.start = torch.rand(()).item()
        self.said = nn.Parameter(torch.tensor(0.0))

    def encode(self, inputs):
        return inputs

    def decode(self, outputs, masks):
        return outputs[None, :, :1].expand(len(masks), -1, -1, -1)

    def loss(self, batch, function, masks):
        return (self.said * (0 if self.deaf else 1) - 1).square() * self.value

    def default_loss(self, batch):
        return torch.tensor(1.0)


def train_stubborn(deaf, budget, value=1.0, **given):
    Stubborn.made = 0
    data = TrainingSet(torch.zeros(8, 2), torch.zeros(8, 2), torch.zeros(8, dtype=torch.long))
    rest = {"groups": 2, "learning_rate": 1e-3, "budget": budget, "seed": 0, **given}
    return train(lambda: Stubborn(deaf, value), data, nn.Identity(), torch.ones(1, 2).bool(), **rest)


@pytest.mark.parametrize(("deaf", "restarts"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_plateau_is_left_by_another_seed(deaf, restarts):
    trained = train_stubborn(deaf, Budget(1e9, steps=2_000))
    assert trained.restarts == restarts
    assert Stubborn.made == restarts + 1
    assert trained.steps == 2_000
    assert trained.network.deaf == (deaf == 9)


def test_restarts_draw_anew():
    first = train_stubborn(0, Budget(1, steps=1)).network.start
    assert train_stubborn(1, Budget(1e9, steps=900)).network.start != first
    assert train_stubborn(0, Budget(1, steps=1)).network.start == first


def test_a_loss_that_is_no_number_is_an_error():
    with pytest.raises(CodeError, match="diverged: the loss is nan"):
        train_stubborn(0, Budget(1e9, steps=900), math.nan)


def test_the_budget_is_kept():
    """On a clock of which each look costs a tenth of a second."""
    ticks = iter(range(10**6))
    heard = []
    trained = train_stubborn(0, Budget(7.0), clock=lambda: next(ticks) / 10, progress=heard.append)
    assert 7.0 <= trained.cpu_s <= 7.5
    assert [progress.step for progress in heard] == list(range(1, trained.steps + 1))
    assert heard[-1].done > 0.95
    assert all(0 < progress.done <= 1 for progress in heard)
    assert len(heard) < 70


def test_a_fit_within_processor_seconds_stops(function, samples):
    heard = []
    code = fit(PackedCode(2, 1), function, samples, budget_s=0.3, progress=heard.append)
    assert code.record.cpu_s >= 0.3
    assert code.record.steps == len(heard) >= 1


def test_outputs_that_are_known_are_not_computed_again(samples, function):
    known = function.eval()(samples).detach()
    given, computed = (
        fit(PackedCode(2, 1), function, samples, outputs=outputs, steps=5, seed=2)
        for outputs in (known, None)
    )
    group = samples[:2].numpy()
    assert np.array_equal(given.encode(group), computed.encode(group))
    assert given.record == replace(computed.record, cpu_s=given.record.cpu_s)


def test_labels_are_learned_by_cross_entropy(samples, function):
    """With labels that contradict the function, estimates follow the labels."""
    labels = torch.full((len(samples),), 2)
    code = fit(LearnedCode(2, 1, loss="cross-entropy"), function, samples, labels=labels, steps=300)
    outputs = code.network.outputs(samples[None, :2], function.eval())[0].numpy()
    estimates = code.decode(outputs, np.array([False, True, True])).values
    assert estimates[0].argmax() == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"samples": torch.zeros(9, 1, 6, 6, dtype=torch.uint8)}, "of torch.uint8, expected"),
        ({"samples": torch.full((9, 1, 6, 6), torch.nan)}, "NaN or infinity"),
        ({"samples": torch.zeros(3, 1, 6, 6)}, "3 samples, expected at least two groups of 2"),
        ({"labels": torch.zeros(7, dtype=torch.long)}, r"labels \(7,\)"),
        ({"outputs": torch.zeros(7, 4)}, "7 outputs of 240 samples"),
        ({"labels": torch.full((240,), 4)}, "expected 0 to 3"),
        ({"function": nn.Flatten(0)}, "expected a row each"),
    ],
)
def test_what_does_not_fit_is_refused(change, problem, function, samples):
    given = {"function": function, "samples": samples, **change}
    with pytest.raises(CodeError, match=problem) as error:
        fit(LearnedCode(2, 1), steps=1, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("budget", [{"budget_s": 0.0}, {"budget_s": math.inf}, {"steps": 0}])
def test_a_budget_must_be_one(budget, function, samples):
    with pytest.raises(ConfigError, match="expected"):
        fit(LearnedCode(2, 1), function, samples, **budget)


def test_arrays_of_another_shape_are_refused(function, samples):
    code = fit(LearnedCode(2, 1), function, samples, steps=1)
    mask = np.array([False, True, True])
    with pytest.raises(CodeError, match=r"inputs \(2, 36\)"):
        code.encode(np.zeros((2, 36), np.float32))
    with pytest.raises(CodeError, match="of int64"):
        code.encode(np.zeros((2, 1, 6, 6), np.int64))
    with pytest.raises(CodeError, match=r"outputs \(3, 5\)"):
        code.decode(np.zeros((3, 5), np.float32), mask)
    with pytest.raises(CodeError, match="wait for more"):
        code.decode(np.zeros((3, 4), np.float32), np.array([False, False, True]))
