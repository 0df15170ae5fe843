"""Measured qualities, by hand and by a naive count."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.codes.code import Decoded, check_outputs
from fedeff.codes.learned import PackedCode, PatternQuality, fit, measured
from fedeff.core.errors import CodeError

NAN = np.nan


@dataclass(frozen=True)
class Guessing:
    """Says class 0 of whatever is missing; knows no quality of that."""

    k: int
    r: int
    systematic: bool = True
    parity_models: tuple[nn.Module, ...] = ()

    def encode(self, inputs):
        return np.concatenate([inputs, inputs])[: self.r if self.systematic else self.k + self.r]

    def decode(self, outputs, mask):
        check_outputs(self, outputs, mask)
        values = np.zeros_like(outputs[: self.k])
        values[:, 0] = 1
        own = mask[: self.k] & self.systematic
        values[own] = outputs[: self.k][own]
        return Decoded(values, np.where(own, 1.0, np.nan))

    def decodable(self, mask):
        return bool(mask.sum() >= self.k)


def biased():
    """Class 0 of a sample whose number is positive, else class 1."""
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0], [-1.0]])
    return layer


def test_a_guess_is_as_good_as_its_class_is_frequent():
    samples = torch.tensor([[1.0]] * 30 + [[-1.0]] * 10)
    code = measured(Guessing(2, 1), biased(), samples)
    decoded = code.decode(np.zeros((3, 2), np.float32), np.array([False, True, True]))
    assert decoded.quality[0] == pytest.approx(0.75, abs=0.08)
    assert decoded.quality[1] == 1
    assert decoded.values.tolist() == [[1, 0], [0, 0]]


def test_of_a_code_without_originals_every_answer_is_an_estimate():
    samples = torch.tensor([[1.0]] * 30 + [[-1.0]] * 10)
    code = measured(Guessing(2, 1, systematic=False), biased(), samples)
    for mask in ([True, True, True], [False, True, True]):
        quality = code.decode(np.zeros((3, 2), np.float32), np.array(mask)).quality
        assert quality == pytest.approx([0.75, 0.75], abs=0.08)


def test_parity_models_are_what_parity_workers_run():
    said = []

    class Spy(nn.Linear):
        def forward(self, x):
            said.append(len(x))
            return super().forward(x)

    code = measured(Guessing(2, 1, parity_models=(Spy(1, 2),)), biased(), torch.ones(8, 1))
    assert sum(said) == 200
    assert len(code.parity_models) == 1


def test_what_is_compared_can_be_chosen():
    samples = torch.tensor([[1.0]] * 10 + [[-1.0]] * 10)
    code = measured(Guessing(2, 1), biased(), samples, answers=lambda outputs: outputs.argmax(-1) * 0)
    assert code.decode(np.zeros((3, 2), np.float32), np.array([False, True, True])).quality.tolist() == [1, 1]


def test_shares_agree_with_a_naive_count(function, samples):
    """Over the same groups, one after the other, every worker's own call."""
    code = fit(PackedCode(2, 1), function, samples, steps=60)
    function.eval()
    mask, right = np.array([False, True, True]), []
    groups = np.random.default_rng(0).permutation(240).reshape(-1, 2)
    with torch.no_grad():
        for group in groups:
            inputs = samples[torch.from_numpy(group)]
            parity = code.parity_models[0](torch.from_numpy(code.encode(inputs.numpy())))
            outputs = torch.cat([function(inputs), parity]).numpy()
            right.append(code.decode(outputs, mask).values[0].argmax() == outputs[0].argmax())
    wrapped = measured(code, function, samples)
    shares = wrapped.pattern_quality.of(mask)
    assert shares[0] == pytest.approx(np.mean(right), abs=0.12)
    assert wrapped.decode(outputs, mask).quality.tolist() == code.decode(outputs, mask).quality.tolist()


def test_patterns_that_were_not_measured_get_the_mean_of_those_most_like_them():
    masks = np.array([[0, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 1, 1, 1]], np.bool_)
    shares = np.array([[0.8, NAN, NAN], [NAN, 0.6, NAN], [0.4, 0.2, NAN]])
    quality = PatternQuality(masks, shares)

    def of(*mask):
        return quality.of(np.array(mask, np.bool_)).tolist()

    assert of(0, 1, 1, 1, 1) == [0.8, 1, 1]
    assert of(1, 1, 0, 1, 1) == [1, 1, 0.8]  # one original missing, no parity
    assert of(1, 1, 0, 0, 1) == [1, 1, 0.6]  # one of each
    assert of(1, 1, 0, 0, 0) == pytest.approx([1, 1, 0.7])  # one original, whatever parities
    assert of(1, 0, 0, 1, 1) == pytest.approx([1, 0.3, 0.3])
    assert of(0, 0, 0, 1, 1) == pytest.approx([0.5] * 3)  # none alike: over all
    assert of(1, 1, 1, 0, 0) == [1, 1, 1]


def test_fewer_samples_than_a_group_are_refused():
    with pytest.raises(CodeError, match="1 samples to measure on"):
        measured(Guessing(2, 1), biased(), torch.ones(1, 1))
