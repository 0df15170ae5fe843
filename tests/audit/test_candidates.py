"""What attacks that optimise try: how errors are weighed."""

from dataclasses import replace

import numpy as np
import pytest
from audit.views import SmoothNet, digits, seeded, view_of

from fedeff.audit.attacks.candidates import best_scale
from fedeff.audit.attacks.dlg import DeepLeakage
from fedeff.audit.finding import Budget
from fedeff.audit.view import ServerView, Told


def rounded(view: ServerView, share: float) -> ServerView:
    """With an error of that share of each entry on record, and in the values."""
    rng, told = np.random.default_rng(0), {}
    for key, one in view.first.told.items():
        std = share * np.abs(one.values)
        told[key] = Told(one.values + std * rng.standard_normal(std.shape), std=std)
    return replace(view, exchanges=(replace(view.first, told=told),))


@pytest.mark.parametrize(("share", "scale"), [(0.0, "layer"), (3e-4, "layer"), (0.05, "noise")])
def test_entries_are_weighed_by_their_error_where_it_counts(share, scale):
    x, y = digits(1)
    assert best_scale(rounded(view_of(seeded(SmoothNet), x, y)[0], share)) == scale


def test_what_float16_rounds_does_not_keep_an_image_from_being_rebuilt():
    x, y = digits(1)
    view = rounded(view_of(seeded(SmoothNet), x, y)[0], 3e-4)
    finding = DeepLeakage().run(view, Budget(60), np.random.default_rng(0))
    assert np.sqrt(np.mean((finding.inputs - x) ** 2)) < 0.01
