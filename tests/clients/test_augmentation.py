"""Random views of images: what stays, what changes, and by how much."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.clients.self_supervision import Augmentation
from fedeff.clients.self_supervision.augmentation import _resampling
from fedeff.core.errors import ConfigError

NOTHING = Augmentation(least_area=1.0, aspect=1.0, flip=0.0, blur=0.0, brightness=0.0, contrast=0.0)


def images(count, shape=(1, 28, 28), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, *shape), np.float32))


def views(augmentation, x, seed=0):
    return augmentation(x, np.random.default_rng(seed))


def only(**changes):
    return Augmentation(**{**NOTHING.__dict__, **changes})


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(0, 4),
    shape=st.sampled_from([(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 5, 9)]),
    strength=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_views_have_the_shape_and_the_range_of_images_and_depend_on_the_draws_alone(
    count, shape, strength, seed
):
    augmentation = Augmentation(1 - 0.9 * strength, 1 + strength, *[strength] * 5)
    x = images(count, shape, seed)
    before, made = x.clone(), views(augmentation, x, seed)
    assert made.shape == x.shape
    assert made.dtype == torch.float32
    assert bool(((made >= 0) & (made <= 1)).all())
    assert torch.equal(made, views(augmentation, x, seed))
    assert torch.equal(x, before)
    if count and strength > 0.1:
        assert not torch.equal(made, views(augmentation, x, seed + 1))


def test_without_any_change_a_view_is_the_image():
    x = images(5, (3, 32, 32))
    torch.testing.assert_close(views(NOTHING, x), x, rtol=0, atol=1e-6)


def test_a_flip_is_a_flip():
    x = images(40)
    made = views(only(flip=0.5), x)
    turned = [torch.allclose(view, image.flip(-1), atol=1e-6) for view, image in zip(made, x, strict=True)]
    same = [torch.allclose(view, image, atol=1e-6) for view, image in zip(made, x, strict=True)]
    assert 8 < sum(turned) < 32
    assert sum(turned) + sum(same) == 40


@given(share=st.floats(0.1, 1), place=st.floats(0, 1), columns=st.integers(3, 20))
def test_a_crop_is_the_bilinear_interpolation_of_a_piece(share, place, columns):
    """As torch samples a grid."""
    line = images(1, (1, 1, columns))
    given_to = torch.tensor([share]), torch.tensor([place]), torch.ones(1)
    made = line[0, 0] @ _resampling(columns, *given_to)[0].T
    theta = torch.tensor([[[share, 0, (2 * place - 1) * (1 - share)], [0, 1.0, 0]]])
    grid = F.affine_grid(theta, [1, 1, 1, columns], align_corners=False)
    expected = F.grid_sample(line, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(made, expected[0, 0], rtol=0, atol=1e-4)


def test_crops_lie_anywhere_and_are_of_every_size():
    """An image whose columns count up tells by its slope which piece it shows."""
    x = torch.arange(16.0).expand(60, 1, 16, 16) / 16
    made = 16 * views(only(least_area=0.25), x)[:, 0, 0]
    shares, left = made.diff()[:, 4:-4].mean(1), made[:, 0]
    assert 0.5 - 1e-4 <= float(shares.min()) < 0.6
    assert 0.9 < float(shares.max()) <= 1
    assert float(left.min()) < 0.5
    assert float(left.max()) > 4


def test_brightness_and_contrast_stay_within_their_factors():
    x = images(50) * 0.5
    bright = views(only(brightness=0.4), x).mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert float(bright.min()) >= 0.6 - 1e-5
    assert float(bright.max()) <= 1.4 + 1e-5
    assert float(bright.max() - bright.min()) > 0.5
    x = 0.4 + images(50) * 0.2
    contrasted = views(only(contrast=0.4), x)
    torch.testing.assert_close(contrasted.mean((1, 2, 3)), x.mean((1, 2, 3)))
    spread = contrasted.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.6 - 1e-5 <= float(spread.min()) < 0.7
    assert 1.3 < float(spread.max()) <= 1.4 + 1e-5


def test_a_blur_smooths_and_keeps_what_is_even():
    x = images(20)
    made = views(only(blur=1.0), x)
    assert bool((made.std((1, 2, 3)) < x.std((1, 2, 3))).all())
    even = torch.full((3, 1, 9, 9), 0.7)
    torch.testing.assert_close(views(only(blur=1.0), even), even)


def test_a_hole_is_a_rectangle_of_zeros():
    made = views(only(erasing=1.0), torch.ones(30, 1, 20, 20))
    for view in made[:, 0]:
        rows, columns = (view == 0).any(1).sum(), (view == 0).any(0).sum()
        assert int((view == 0).sum()) == int(rows * columns)
        assert 1 <= int(rows) <= 9
        assert bool(((view == 0) | (view - 1).abs().lt(1e-6)).all())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"least_area": 0.0}, "least_area is 0.0; it must be above 0"),
        ({"aspect": 0.5}, "aspect is 0.5; it must be at least 1"),
        ({"flip": 1.5}, "flip is 1.5; it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        only(**changes)
