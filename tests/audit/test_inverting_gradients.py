"""Inverting Gradients on digits, through local steps, and its schedule."""

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.audit.attacks.inverting_gradients import InvertingGradients, total_variation
from fedeff.audit.finding import Budget
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError, ConfigError
from tests.audit.views import digits, psnr, seeded, view_of


def small() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(512, 10)
        )
    )


SEVERAL_STEPS = LocalTraining(epochs=2, learning_rate=0.02)


@pytest.mark.parametrize(
    ("training", "polish", "least"),
    [(LocalTraining(), False, 35), (SEVERAL_STEPS, False, 35), (LocalTraining(), True, 90)],
)
def test_a_digit_comes_out_also_through_local_steps(
    training: LocalTraining, polish: bool, least: float
) -> None:
    x, y = digits(1, seed=1)
    view, truth = view_of(small(), x, y, training=training)
    attack = InvertingGradients(iterations=60, restarts=1, alpha=1e-4, polish=polish)
    found = attack.run(view, Budget(600), np.random.default_rng(0))
    assert found.inputs is not None
    assert psnr(found.inputs, truth.inputs) > least
    assert found.labels == y
    assert found.converged
    assert found.facts["iterations"] == 60


def test_the_restart_of_least_loss_is_told_and_the_draw_decides() -> None:
    view, _ = view_of(small(), *digits(1))
    one, again, three = (
        InvertingGradients(iterations=6, restarts=restarts, polish=False).run(
            view, Budget(600), np.random.default_rng(3)
        )
        for restarts in (1, 1, 3)
    )
    assert one.loss == again.loss
    assert three.loss <= one.loss


def test_a_spent_budget_leaves_it_unfinished() -> None:
    view, _ = view_of(small(), *digits(1))
    found = InvertingGradients(iterations=10_000).run(view, Budget(0.0), np.random.default_rng(0))
    assert not found.converged
    assert found.inputs is not None


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_total_variation_of_any_channels(channels: int) -> None:
    x = torch.zeros(2, channels, 3, 2)
    x[:, :, 1] = 1.0
    assert total_variation(x) == 1.0
    assert total_variation(x.mT) == 1.0
    assert total_variation(torch.rand(2, 9)) == 0.0


def test_tokens_and_empty_wishes_are_refused() -> None:
    for wish in ({"iterations": 0}, {"restarts": 0}, {"alpha": -1.0}, {"step_size": 0.0}):
        with pytest.raises(ConfigError, match=r"at least|above"):
            InvertingGradients(**wish)
    view, _ = view_of(small(), *digits(1), training=LocalTraining(optimizer="adam"))
    with pytest.raises(AuditError, match="adam"):
        InvertingGradients().run(view, Budget(1), np.random.default_rng(0))
