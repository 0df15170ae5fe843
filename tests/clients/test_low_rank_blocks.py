"""Layers of low rank, trained by the plain loop and in vectorised blocks."""

import numpy as np
import pytest
from torch import nn

from fedeff.clients import LocalTraining, obstacle_to_vectorising, train_block, train_loop
from fedeff.clients.block import vectorising_pays
from fedeff.models import FedPara, LoRA

MADE = {
    "fedpara": FedPara(rank=2),
    "lora": LoRA(rank=2, extras=("biases", "norms")),
    "frozen a": LoRA(rank=2, freeze_a=True),
}


def generators(count):
    return [np.random.default_rng((9, client)) for client in range(count)]


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize("name", ["mlp", "cnn", "gru", "lstm"])
def test_a_block_equals_the_loop(name, made, make_model, make_samples, arrays_of):
    model, training = made.apply(make_model(name)), LocalTraining(batch_size=5, learning_rate=0.05)
    sizes = [12, 6, 20]
    arrays = [arrays_of(made.apply(make_model(name, seed), seed)) for seed in range(len(sizes))]
    samples = [make_samples(name, size, seed) for seed, size in enumerate(sizes)]
    assert obstacle_to_vectorising(model, training) is None
    block = train_block(model, arrays, samples, training, generators(len(sizes)))
    for own, *one, rng in zip(block, arrays, samples, generators(len(sizes)), strict=True):
        reference = train_loop(model, *one, training, rng)
        assert own.arrays.keys() == reference.arrays.keys() == arrays[0].keys()
        assert own.loss == pytest.approx(reference.loss, abs=1e-5)
        for key, values in reference.arrays.items():
            np.testing.assert_allclose(own.arrays[key], values, rtol=0, atol=1e-5, err_msg=key)
            assert not np.array_equal(values, one[0][key]), key


def test_layers_count_as_the_kind_that_they_stand_for(make_model):
    for name, pays in (("mlp", True), ("cnn", False), ("lstm", False)):
        assert vectorising_pays(FedPara(rank=2).apply(make_model(name)), "cpu") == pays


def test_statistics_that_travel_still_go_by_the_loop(make_model):
    model = nn.Sequential(LoRA(rank=2).apply(make_model("mlp")), nn.BatchNorm1d(10))
    assert "buffers" in obstacle_to_vectorising(model, LocalTraining())
