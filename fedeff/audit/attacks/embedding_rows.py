"""Which tokens occurred: those whose row of the embedding has a gradient."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import chdtri
from torch import nn

from fedeff.audit.finding import Budget, Finding
from fedeff.audit.gradients.gradient_rows import gradient_sum, obstacle_to_sums, steps_of
from fedeff.audit.gradients.reading import Reading
from fedeff.audit.replay.forward import first_embedding
from fedeff.audit.replay.matching import replayed_rows
from fedeff.audit.view import Exchange, NDArray, ServerView
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError

__all__ = ["EmbeddingRows", "Occurrence", "occurrence"]

_LEVEL = 1e-3  # chance that noise alone makes any row look used
_ZEROS = 8  # of a row that are shown: one that was used has some that are not zero
_TEXTS = 32  # random ones, to learn what a model predicts
_FLOAT32 = 2.0**-23  # of a weight: how far decay that was rounded at every step strays


@dataclass(frozen=True, eq=False)
class Occurrence:
    """Booleans by token: `seen` ones occurred for certain; others, unless `possible`, did not."""

    seen: NDArray
    possible: NDArray


def obstacle_to_rows(exchange: Exchange, network: nn.Module) -> str | None:
    """Why the rows of the embedding tell nothing; None where they may."""
    found, training = first_embedding(network), exchange.training
    if found is None:
        return "the model has no embedding of tokens"
    told = exchange.told.get(found[0])
    if told is None or not told.mask.any():
        return f"nothing came of {found[0]}, the embedding"
    if exchange.kind == "change" and training.penalty is not None:
        return "a penalty moves rows of the embedding that were not used; train without one"
    decays = exchange.kind == "change" and training.weight_decay > 0
    if decays and (training.optimizer not in ("sgd", "adamw") or training.prox_mu):
        return f"weight decay under {training.optimizer!r} moves rows that were not used by unknown amounts"
    return None


def occurrence(exchange: Exchange, network: nn.Module, most: int) -> Occurrence | None:
    """Which tokens occurred, of `most` at most (0: nobody says); None where the rows tell nothing.

    A row that no token read does not move, but for weight decay. With noise on record a row is seen where
    its length is out of reach of noise alone. Where more rows moved than tokens were read, the embedding is
    also the head, say.
    """
    found = first_embedding(network)
    if found is None or obstacle_to_rows(exchange, network) is not None:
        return None
    told = exchange.told[found[0]]
    known, moved = told.mask, np.where(told.mask, told.values, 0.0)
    std = np.broadcast_to(np.asarray(told.std, np.float64), moved.shape)
    if exchange.kind == "change" and exchange.training.weight_decay:
        training, weights = exchange.training, np.asarray(exchange.weights[found[0]], np.float64)
        left = (1 - training.learning_rate * training.weight_decay) ** steps_of(exchange)
        moved = np.where(known, moved - (left - 1) * weights, 0.0)
        std = np.hypot(std, _FLOAT32 * steps_of(exchange) * np.abs(weights))
    count = known.sum(axis=1)
    noisy = std.max(axis=1) > 0
    surprise = (np.square(moved) / np.square(np.where(std > 0, std, 1.0))).sum(axis=1)
    limit = chdtri(np.maximum(count, 1), _LEVEL / len(moved))
    seen = np.where(noisy, surprise > limit, (moved != 0).any(axis=1)) & (count > 0)
    if most and seen.sum() > most:
        return None
    # Under noise a row that does not stand out may still have been used, as one that is hidden may.
    possible = seen | noisy | (count < min(_ZEROS, known.shape[1]))
    return Occurrence(seen, possible)


@dataclass(frozen=True)
class EmbeddingRows:
    """The bag of tokens: which occurred by the embedding's rows that moved, how often by the head.

    Which tokens were read is exact (Melis et al., arXiv:1805.04049). The finding's `labels` (rows, length)
    hold the tokens that follow, in no order: those that were read, but for the first of each text. How
    often is told by the gradient of the last layer's bias, `p_c - [y = c]` in the mean over places (as by
    LLG, Wainakh et al., arXiv:2105.09369), with p that of random texts of these tokens; without that bias
    by the lengths of the rows, a guess. Nothing is known of the order; see `Dager` for that. Blind where
    the embedding is also the head, which moves every row.
    """

    name: str = "embedding-rows"

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if view.public.task != "next-character":
            return f"it reads tokens; the task is {view.public.task!r}"
        network = view.public.network()
        found = [obstacle_to_rows(exchange, network) for exchange in view.exchanges]
        return None if None in found else found[0]

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The bag of tokens of the first exchange that tells one, of all where they are on other rows."""
        if (why := self.obstacle(view)) is not None:
            raise AuditError(f"{self.name}: {why}")
        began, bags, tokens_seen = time.monotonic(), list[NDArray](), 0
        for exchange in view.exchanges:
            read = replayed_rows(exchange, view) * view.public.input_shape[0]
            found = occurrence(exchange, view.public.network(), read)
            if found is not None and found.seen.any() and not (bags and view.same_rows):
                bags.append(_bag(view, exchange, found.seen, read or int(found.seen.sum()), rng))
                tokens_seen += int(found.seen.sum())
        bag = np.concatenate(bags) if bags else None
        length = view.public.input_shape[0]
        labels = None if bag is None else bag.reshape(-1, length if len(bag) % length == 0 else 1)
        facts = {"tokens_seen": float(tokens_seen)}
        return Finding(self.name, None, labels, float("nan"), True, time.monotonic() - began, facts)


def _bag(
    view: ServerView, exchange: Exchange, seen: NDArray, count: int, rng: np.random.Generator
) -> NDArray:
    """`count` tokens (count,) that follow others."""
    found = _label_counts(view, exchange, seen, count, rng)
    if found is None:
        key = first_embedding(view.public.network())
        assert key is not None
        told = exchange.told[key[0]]
        # Gradients at other places are nearly at right angles, so squares of lengths add up.
        squares = np.where(seen, np.square(np.where(told.mask, told.values, 0.0)).sum(axis=1), 0.0)
        found = seen + squares / squares.sum() * max(0, count - seen.sum())
    return _apportioned(np.where(seen | (found > 0.5), np.maximum(found, 0), 0), count)


def _label_counts(
    view: ServerView, exchange: Exchange, seen: NDArray, count: int, rng: np.random.Generator
) -> NDArray | None:
    """How often each token follows another, (classes,), by the last bias; None where that is hidden."""
    network = view.public.network()
    load_weights(network, exchange.weights)
    reading = Reading(network, view.public.input_shape[0], view.public.classes)
    key = reading.layers[-1].keys[-1].removesuffix("weight") + "bias" if reading.layers else ""
    told = exchange.told.get(key)
    hidden = told is None or not told.mask.all() or len(told.values) != view.public.classes
    if hidden or obstacle_to_sums(exchange) is not None or len(seen) != view.public.classes:
        return None
    gradient, counts = gradient_sum(exchange, key) / steps_of(exchange), seen.astype(float)
    for _ in range(2):  # the first counts tell which texts are likely
        texts = rng.choice(len(seen), (_TEXTS, view.public.input_shape[0]), p=counts / counts.sum())
        chances = reading.logits(torch.from_numpy(texts)).softmax(-1).mean((0, 1)).numpy()
        scale = 1.0
        if exchange.clipping_norm:  # by an unknown factor: what is not there is told by chances alone
            scale = float(gradient[~seen] @ chances[~seen] / (chances[~seen] @ chances[~seen])) or 1.0
        found = count * (chances - gradient / scale)
        counts = np.where(seen, np.maximum(found, 0.1), 0)
    return np.asarray(found)


def _apportioned(shares: NDArray, count: int) -> NDArray:
    """`count` tokens, each as often as its share, by largest remainders."""
    exact = shares / shares.sum() * count
    times = np.floor(exact).astype(np.int64)
    times[np.argsort(times - exact, kind="stable")[: count - times.sum()]] += 1
    return np.repeat(np.arange(len(shares)), times)
