"""The bag of tokens from rows that moved."""

import numpy as np
import pytest
import torch
from audit.views import seeded, view_of
from torch import nn

from fedeff.audit.attacks.embedding_rows import EmbeddingRows, occurrence
from fedeff.audit.finding import Budget
from fedeff.audit.replay.forward import first_embedding
from fedeff.audit.view import NDArray, ServerView
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models import build

VOCABULARY, LENGTH = 50, 12
NAMES = ["gru", "lstm", "transformer"]


def network(name: str) -> nn.Module:
    return build(name, classes=VOCABULARY, input_shape=(LENGTH,), seed=3)


def texts(rows: int = 3) -> tuple[NDArray, NDArray]:
    """Texts over part of the vocabulary, some tokens far more often than others."""
    rng = np.random.default_rng(1)
    drawn = np.minimum(rng.geometric(0.15, (rows, LENGTH + 1)), VOCABULARY - 1)
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def tokens_seen(view: ServerView, most: int = 3 * LENGTH) -> set[int]:
    found = occurrence(view.first, view.public.network(), most)
    assert found is not None
    assert (found.possible | ~found.seen).all()
    return set(np.flatnonzero(found.seen).tolist())


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(batch_size=8, learning_rate=0.5),
        LocalTraining(epochs=3, batch_size=1, learning_rate=0.1, weight_decay=0.01),
        LocalTraining(epochs=2, batch_size=2, learning_rate=0.001, optimizer="adam"),
        LocalTraining(epochs=2, batch_size=2, learning_rate=0.01, optimizer="adamw", weight_decay=0.1),
    ],
    ids=["sgd", "decay", "adam", "adamw"],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_that_occurred_are_exact(name: str, training: LocalTraining) -> None:
    x, y = texts()
    assert tokens_seen(view_of(network(name), x, y, training=training, classes=VOCABULARY)[0]) == set(x.flat)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_counted_by_the_last_bias(name: str) -> None:
    x, y = texts()
    view = view_of(network(name), x, y, kind="gradient", classes=VOCABULARY)[0]
    found = EmbeddingRows().run(view, Budget(9), np.random.default_rng(0))
    assert found.inputs is None
    assert found.labels is not None
    assert found.labels.shape == y.shape
    assert sorted(found.labels.flat) == sorted(y.flat)
    assert found.facts["tokens_seen"] == len(set(x.flat))


def test_without_that_bias_lengths_tell_which_are_many() -> None:
    x, y = texts()
    model = network("gru")
    known = {"head.bias": np.zeros(VOCABULARY, bool)}
    view = view_of(model, x, y, kind="gradient", classes=VOCABULARY, known=known)[0]
    found = EmbeddingRows().run(view, Budget(9), np.random.default_rng(0)).labels
    assert found is not None
    assert set(found.flat) == set(x.flat)
    assert found.shape == x.shape


def test_noise_hides_tokens_but_makes_none_up() -> None:
    x, y = texts()
    for noise, least in ((1e-6, 1.0), (3e-4, 0.3), (1.0, 0.0)):
        view = view_of(network("gru"), x, y, kind="gradient", classes=VOCABULARY, noise=noise)[0]
        seen = tokens_seen(view)
        assert seen <= set(x.flat)
        assert len(seen) >= least * len(set(x.flat))
        found = occurrence(view.first, view.public.network(), 0)
        assert found is not None
        assert found.possible.all()  # what does not stand out may still be there
    assert EmbeddingRows().run(view, Budget(9), np.random.default_rng(0)).labels is None


def test_a_masked_row_may_be_there_and_a_shown_zero_is_not() -> None:
    x, y = texts()
    shown = np.zeros((VOCABULARY, 16), bool)
    shown[::2] = True
    shown[1, 0] = True
    view = view_of(network("gru"), x, y, classes=VOCABULARY, known={"embedding.weight": shown})[0]
    found = occurrence(view.first, view.public.network(), x.size)
    assert found is not None
    assert set(np.flatnonzero(found.seen)) == {t for t in set(x.flat) if t % 2 == 0 or t == 1}
    assert set(np.flatnonzero(~found.possible)) == {t for t in range(0, VOCABULARY, 2) if t not in x}


def test_an_embedding_that_is_the_head_tells_nothing() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 8)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.embedding(tokens) @ self.embedding.weight.T

    view = view_of(seeded(Tied), *texts(), classes=VOCABULARY)[0]
    assert occurrence(view.first, view.public.network(), 3 * LENGTH) is None
    assert first_embedding(view.public.network()) is not None
    assert EmbeddingRows().run(view, Budget(9), np.random.default_rng(0)).labels is None


def test_what_cannot_be_tried_is_named() -> None:
    decayed = LocalTraining(optimizer="adam", weight_decay=0.1, learning_rate=0.01)
    hidden = {"embedding.weight": np.zeros((VOCABULARY, 16), bool)}
    for view, said in (
        (
            view_of(network("gru"), *texts(), classes=VOCABULARY, training=decayed)[0],
            "weight decay under 'adam'",
        ),
        (view_of(network("gru"), *texts(), classes=VOCABULARY, known=hidden)[0], "nothing came of embedding"),
        (view_of(nn.Sequential(nn.Linear(4, 2)), np.ones((1, 4), np.float32), np.array([1]))[0], "classify"),
    ):
        assert said in str(EmbeddingRows().obstacle(view))
        with pytest.raises(AuditError, match=said):
            EmbeddingRows().run(view, Budget(9), np.random.default_rng(0))
