"""Whole texts from spans: exact where the wire lets them be, open where it does not, never wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from audit.views import seeded, view_of
from torch import nn

from fedeff.audit.attacks.dager import Dager
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.judging.metrics import matched, token_table
from fedeff.audit.view import NDArray, ServerView, Told
from fedeff.clients import LocalTraining
from fedeff.core.errors import AuditError
from fedeff.models.recurrent import CharacterModel, Gru, Lstm
from fedeff.models.transformer import Transformer

VOCABULARY, LENGTH, WIDTH = 60, 8, 48


def transformer() -> nn.Module:
    return seeded(lambda: Transformer(VOCABULARY, LENGTH, width=WIDTH, layers=2, heads=4), 1)


def texts(rows: int, length: int = LENGTH, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Texts and the tokens that follow."""
    drawn = np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length + 1))
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def attacked(view: ServerView) -> Finding:
    return Dager().run(view, Budget(60), np.random.default_rng(0))


def right(found: Finding, truth: NDArray) -> int:
    """How many tokens are told and right."""
    if found.inputs is None:
        return 0
    table = token_table(found.inputs, truth)
    return int(sum(table[row, column] for column, row in enumerate(matched(table)) if row is not None))


def same_rows(one: NDArray | None, other: NDArray) -> bool:
    return one is not None and sorted(map(tuple, one.tolist())) == sorted(map(tuple, other.tolist()))


def only(network: nn.Module, *kept: str) -> dict[str, NDArray]:
    """Masks that show a tenth of the entries of all arrays but the kept ones, which are whole."""
    rng = np.random.default_rng(5)
    return {
        key: np.full(value.shape, True) if key in kept else rng.random(value.shape) < 0.1
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", ["gradient", "change"])
def test_a_batch_is_exact_to_the_last_label(rows: int, kind: str) -> None:
    x, y = texts(rows)
    found = attacked(view_of(transformer(), x, y, kind=kind, classes=VOCABULARY)[0])
    assert same_rows(found.inputs, x)
    assert found.labels is not None
    assert same_rows(np.hstack([found.inputs, found.labels[:, -1:]]), np.hstack([x, y[:, -1:]]))
    assert found.loss < 1e-8
    assert found.converged
    assert found.facts["certain_tokens"] == x.size
    assert found.facts["rank"] == x.size


@pytest.mark.parametrize(
    "kept",
    [
        ("layers.0.attention.value.weight", "layers.1.attention.value.weight"),
        ("layers.0.attention.query.weight", "layers.1.attention.query.weight"),
        ("layers.1.attention.value.weight",),
    ],
)
def test_two_whole_arrays_tell_everything(kept: tuple[str, ...]) -> None:
    """A tenth of all others is known. Queries of a first token have no gradient: a second one tells it."""
    network, (x, y) = transformer(), texts(4)
    view, _ = view_of(network, x, y, kind="gradient", classes=VOCABULARY, known=only(network, *kept))
    found = attacked(view)
    assert same_rows(found.inputs, x)
    assert found.labels is None  # the head is not whole
    assert np.isnan(found.loss)


def test_of_a_single_text_the_first_values_alone_tell_all() -> None:
    network, (x, y) = transformer(), texts(1)
    known = only(network, "layers.0.attention.value.weight")
    view, _ = view_of(network, x, y, kind="gradient", classes=VOCABULARY, known=known)
    assert same_rows(attacked(view).inputs, x)
    several, _ = view_of(network, *texts(2), kind="gradient", classes=VOCABULARY, known=known)
    assert "no whole row of layers.0.attention.out.weight" in str(Dager().obstacle(several))


@pytest.mark.parametrize("noise", [1e-7, 3e-5, 1e-4, 3e-4, 1e-2])
@pytest.mark.parametrize("on_record", [True, False])
def test_noise_leaves_tokens_open_and_makes_none_up(noise: float, on_record: bool) -> None:
    x, y = texts(3)
    std = None if on_record else 0.0
    view, _ = view_of(
        transformer(), x, y, kind="gradient", classes=VOCABULARY, noise=noise, told_std=std, seed=2
    )
    found = attacked(view)
    assert found.facts["certain_tokens"] == right(found, x)
    if noise < 1e-4:
        assert same_rows(found.inputs, x)
    if noise > 1e-3:
        assert found.inputs is None


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(steps=2, batch_size=8, learning_rate=0.03),
        LocalTraining(epochs=5, batch_size=8, learning_rate=0.01),
        LocalTraining(batch_size=8, optimizer="momentum", momentum=0.9, weight_decay=0.05, prox_mu=0.1),
        LocalTraining(steps=2, batch_size=8, learning_rate=0.01, weight_decay=0.1),
    ],
)
def test_steps_on_the_same_rows_are_read_by_their_mean_weights(training: LocalTraining) -> None:
    x, y = texts(3)
    found = attacked(view_of(transformer(), x, y, training=training, classes=VOCABULARY)[0])
    assert same_rows(found.inputs, x)
    assert found.loss < 1e-5


@pytest.mark.parametrize("layer", [Gru, Lstm])
def test_states_of_recurrent_layers_tell_the_text(layer: type[Gru | Lstm]) -> None:
    x, y = texts(2, length=20)
    network = seeded(lambda: CharacterModel(layer, VOCABULARY), 3)
    found = attacked(view_of(network, x, y, classes=VOCABULARY)[0])
    assert same_rows(found.inputs, x)
    assert same_rows(found.labels, y)


def test_a_layer_that_nobody_named_is_found_by_what_it_reads() -> None:
    """Torch's own transformer, whose projections are in one array that no dense layer holds."""

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(LENGTH, 32))
            self.block = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
            self.head = nn.Linear(32, VOCABULARY)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens) + self.place[: tokens.shape[1]]
            ahead = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
            logits: torch.Tensor = self.head(self.block(x, src_mask=ahead))
            return logits

    x, y = texts(2)
    found = attacked(view_of(seeded(Foreign), x, y, classes=VOCABULARY)[0])
    assert same_rows(found.inputs, x)


def test_rows_on_several_exchanges_add_up() -> None:
    """Exchanges on other rows each tell their own; on the same rows the one that tells most counts."""
    first, second = (view_of(transformer(), *texts(2, seed=seed), classes=VOCABULARY)[0] for seed in (0, 1))
    both = (first.first, second.first)
    found = attacked(ServerView(first.public, both, same_rows=False))
    assert same_rows(found.inputs, np.concatenate([texts(2, seed=seed)[0] for seed in (0, 1)]))
    assert same_rows(attacked(ServerView(first.public, both)).inputs, texts(2)[0])


def test_a_sum_over_clients_is_read_as_one_batch() -> None:
    """Of clients that take a step each on two rows the mean, as a secure sum tells it."""
    parts = [view_of(transformer(), *texts(2, seed=seed), classes=VOCABULARY)[0] for seed in (0, 1)]
    told = {
        key: Told((one.values + parts[1].first.told[key].values) / 2)
        for key, one in parts[0].first.told.items()
    }
    training = replace(parts[0].first.training, batch_size=2)
    summed = replace(parts[0].first, told=told, examples=4, clients=2, training=training)
    found = attacked(replace(parts[0], exchanges=(summed,)))
    x, y = (np.concatenate(both) for both in zip(texts(2, seed=0), texts(2, seed=1), strict=True))
    assert same_rows(found.inputs, x)
    assert same_rows(found.labels, y)


def test_a_clipped_change_tells_the_last_labels_too() -> None:
    x, y = texts(3)
    view, _ = view_of(transformer(), x, y, classes=VOCABULARY)
    told = {key: Told(one.values * 0.01) for key, one in view.first.told.items()}
    clipped = replace(view.first, told=told, clipping_norm=0.1)
    found = attacked(replace(view, exchanges=(clipped,)))
    assert same_rows(found.labels, y)
    assert found.loss < 1e-6


def test_a_first_token_that_two_texts_share_is_told_for_both() -> None:
    x, y = texts(3)
    x[1, :5], y[1, :4] = x[0, :5], y[0, :4]
    assert same_rows(attacked(view_of(transformer(), x, y, classes=VOCABULARY)[0]).inputs, x)


def test_a_spent_budget_tells_nothing_and_says_so() -> None:
    x, y = texts(2)
    found = Dager().run(
        view_of(transformer(), x, y, classes=VOCABULARY)[0], Budget(0), np.random.default_rng(0)
    )
    assert found.inputs is None
    assert not found.converged


def test_what_cannot_be_tried_is_named() -> None:
    network = transformer()
    for view, said in (
        (view_of(network, *texts(7), classes=VOCABULARY)[0], "read 56 vectors 48 wide, which span all"),
        (
            view_of(network, *texts(2), classes=VOCABULARY, known=only(network))[0],
            r"no whole row of layers\.0\.attention\.out\.weight",
        ),
        (
            view_of(network, *texts(2), classes=VOCABULARY, training=LocalTraining(optimizer="adam"))[0],
            "'adam' scales every entry",
        ),
        (view_of(nn.Sequential(nn.Linear(4, 2)), np.ones((1, 4), np.float32), np.array([1]))[0], "classify"),
        (
            view_of(nn.Sequential(nn.Embedding(VOCABULARY, VOCABULARY)), *texts(1), classes=VOCABULARY)[0],
            "no layer that looks only backwards",
        ),
    ):
        assert said.replace("\\", "") in str(Dager().obstacle(view))
        with pytest.raises(AuditError, match=said):
            attacked(view)
