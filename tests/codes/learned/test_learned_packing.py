import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.codes.learned.packing import levels_of, pack, unpack
from fedeff.core.errors import ConfigError


def logits_of(seed, shape, scale):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=60)
@given(
    k=st.integers(1, 24),
    classes=st.integers(2, 12),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 8.0, 500.0]),
)
def test_the_likeliest_class_of_every_answer_survives(k, classes, seed, scale):
    logits = logits_of(seed, (3, k, classes), scale)
    packed = pack(logits)
    assert packed.shape == (3, classes)
    assert packed.dtype == torch.float32
    assert bool((packed == packed.round()).all())
    assert 0 <= float(packed.min()) <= float(packed.max()) < 2**24
    assert torch.equal(unpack(packed, k).argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("k", [1, 2, 10, 24])
def test_a_tie_but_for_rounding_goes_to_the_likeliest(k):
    logits = torch.zeros(1, k, 4)
    logits[..., 2] = 1e-9
    assert unpack(pack(logits), k).argmax(-1).tolist() == [[2] * k]


def test_probabilities_are_as_fine_as_the_room_allows():
    errors = []
    for k in (1, 2, 4, 10):
        logits = logits_of(k, (50, k, 10), 3.0)
        errors.append(float((unpack(pack(logits), k).exp() - logits.softmax(-1)).abs().max()))
    assert errors == sorted(errors)
    assert errors[0] < 1e-6
    assert errors[1] < 1e-3
    assert errors[2] < 0.05


def test_hand_computed():
    """Two answers of two classes: 4096 levels, the first answer's digits count ones."""
    logits = torch.tensor([[[0.0, -2.0 * torch.tensor(2.0).log()], [-1e9, 3.0]]])
    # A gap of 2 ln 2 is nearness 1/2: level floor(4095 / 2) = 2047.
    assert pack(logits).tolist() == [[4095 + 4096 * 0, 2047 + 4096 * 4095]]


def test_what_was_never_packed_is_read_as_something():
    strange = torch.tensor([[-5.0, 3.3e38, 0.4]])
    assert bool(torch.isfinite(unpack(strange, 2)).all())


def test_answers_of_several_rows_keep_their_shape():
    logits = logits_of(0, (2, 3, 5, 4), 2.0)
    assert unpack(pack(logits), 3).shape == logits.shape


@pytest.mark.parametrize("k", range(1, 25))
def test_digits_fit_a_float32(k):
    assert levels_of(k) >= 2
    assert levels_of(k) ** k <= 2**24


def test_more_answers_than_there_is_room_for_are_refused():
    with pytest.raises(ConfigError, match="k is 25, expected at most 24"):
        levels_of(25)
