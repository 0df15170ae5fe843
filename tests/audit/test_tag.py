"""Texts by descent: a short one exactly, through masks and several steps."""

import numpy as np
import pytest
from audit.views import seeded, some_known, view_of
from torch import nn

from fedeff.audit.attacks.tag import Tag
from fedeff.audit.finding import Budget
from fedeff.audit.view import NDArray, ServerView
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models.transformer import Transformer

VOCABULARY, LENGTH = 20, 4


def small() -> nn.Module:
    return seeded(lambda: Transformer(VOCABULARY, LENGTH, width=16, layers=1, heads=2), 1)


def text(seed: int = 1) -> tuple[NDArray, NDArray]:
    drawn = np.random.default_rng(seed).integers(0, VOCABULARY, (1, LENGTH + 1))
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def masked() -> ServerView:
    """Half of what came is left, random entries: no whole row."""
    return view_of(small(), *text(), kind="gradient", classes=VOCABULARY, known=some_known(small(), 0.5))[0]


def two_steps() -> ServerView:
    training = LocalTraining(steps=2, batch_size=1, learning_rate=0.1)
    return view_of(small(), *text(), training=training, classes=VOCABULARY)[0]


@pytest.mark.parametrize("view", [masked(), two_steps()], ids=["masked", "two steps"])
def test_a_short_text_is_found(view: ServerView) -> None:
    found = Tag(steps=100, restarts=2).run(view, Budget(300), np.random.default_rng(0))
    x, y = text()
    assert np.array_equal(found.inputs, x)
    assert np.array_equal(found.labels, y)
    assert found.loss < 1e-4
    assert found.converged


def test_a_spent_budget_gives_what_there_is_and_says_so() -> None:
    found = Tag().run(masked(), Budget(0), np.random.default_rng(0))
    assert found.inputs.shape == (1, LENGTH)
    assert not found.converged
    assert found.facts == {"restarts": 1.0, "steps": 0.0}


def test_what_cannot_be_tried_is_named() -> None:
    for view, said in (
        (view_of(nn.Sequential(nn.Linear(4, 2)), np.ones((1, 4), np.float32), np.array([1]))[0], "classify"),
        (
            view_of(small(), *text(), classes=VOCABULARY, training=LocalTraining(optimizer="adam"))[0],
            "'adam' cannot be replayed",
        ),
    ):
        with pytest.raises(AuditError, match=said):
            Tag().run(view, Budget(9), np.random.default_rng(0))
