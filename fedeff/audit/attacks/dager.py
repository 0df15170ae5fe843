"""DAGER: whole texts from the span of what layers read (Petrov et al., arXiv:2405.15586)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fedeff.audit.attacks.embedding_rows import occurrence
from fedeff.audit.attacks.last_labels import cosine_distance, labels_of
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.gradients.gradient_rows import known_rows, obstacle_to_sums, steps_of
from fedeff.audit.gradients.reading import Reading, ReadLayer
from fedeff.audit.gradients.span import Span, span_of
from fedeff.audit.replay.matching import replayed_rows
from fedeff.audit.view import Exchange, NDArray, ServerView
from fedeff.clients.weights import load_weights
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["Dager"]

_AT_ONCE = 2_000_000  # numbers that layers read at a time
_BLUR = 2.5
_UNTRACED = 2_000  # first tokens that are tried where none leaves a trace by itself
_OPEN = -1  # a token that is not told


@dataclass(frozen=True)
class Dager:
    """Every text of a batch, token by token, each checked: what fits is in the span, what does not is not.

    The rows of a dense layer's gradient lie in the span of the vectors that it read. The first layers read
    one token and its place: each token is tried at each place. Later ones read all tokens up to a place:
    texts grow from the left, by tokens that keep them in the span. Which layers these are is found by
    trying, so it is for any network that looks only backwards: transformers with dense projections, torch's
    recurrent layers by their weights on states. `layers` so many of the later ones have to agree, and at
    most `beam` times the rows grow at a time. Of a single text the first layers tell the rest too, where they
    leave one token a place. Decoders only, without the paper's search for encoders.

    The tolerance is that of the wire: float32 rounding, codecs and noise on record; where these drown the
    smallest singular values, tokens are left open (-1) rather than guessed. Not for batches with as
    many positions as the layers are wide: then everything is in the span. Several local steps smear
    the span as far as they move the weights; what is left of the span is measured, not assumed.
    """

    name: str = "dager"
    layers: int = 2
    beam: int = 4

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if view.public.task != "next-character":
            return f"it rebuilds tokens; the task is {view.public.task!r}"
        found = [_obstacle(view, exchange) for exchange in view.exchanges]
        return None if None in found else found[0]

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The texts (n, length), tokens that are not certain -1, with the labels where all are whole.

        The loss is 1 less the cosine between the gradient of these texts, where all are whole, and what came,
        NaN else; nothing is drawn.
        """
        began, found = time.monotonic(), list[_Found]()
        if (why := self.obstacle(view)) is not None:
            raise AuditError(f"{self.name}: {why}")
        with one_thread():
            for exchange in view.exchanges:
                if len(view.exchanges) == 1 or _obstacle(view, exchange) is None:
                    found.append(_Search(view, exchange, self.layers, self.beam).run(budget))
                    if view.same_rows and found[-1].whole:
                        break
        if view.same_rows:
            found = [max(found, key=lambda one: one.certain)]
        return _finding(self.name, found, time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class _Found:
    """What one exchange told."""

    texts: NDArray  # (n, length), -1 where open
    labels: NDArray | None
    loss: float
    ended: bool
    facts: dict[str, float]

    @property
    def certain(self) -> int:
        return int((self.texts != _OPEN).sum())

    @property
    def whole(self) -> bool:
        return self.labels is not None


def _finding(name: str, found: Sequence[_Found], seconds: float) -> Finding:
    texts = np.concatenate([one.texts for one in found])
    told = [one.labels for one in found if one.labels is not None]
    facts = {key: max(one.facts[key] for one in found) for key in found[0].facts}
    return Finding(
        name,
        texts if len(texts) else None,
        np.concatenate(told) if len(told) == len(found) else None,
        max(one.loss for one in found),
        all(one.ended for one in found),
        seconds,
        facts | {"certain_tokens": float(sum(one.certain for one in found))},
    )


def _obstacle(view: ServerView, exchange: Exchange) -> str | None:
    if (why := obstacle_to_sums(exchange)) is not None:
        return why
    reading, length = _reading(view, exchange), view.public.input_shape[0]
    if not any(not layer.alone for layer in reading.layers):
        return "no layer that looks only backwards was found; the attack needs dense or recurrent layers"
    rows = replayed_rows(exchange, view)
    reasons = [(layer, _obstacle_to_span(layer, exchange, rows * length)) for layer in reading.layers]
    if any(why is None and (not layer.alone or rows == 1) for layer, why in reasons):
        return None
    return next(why for layer, why in reasons if not layer.alone)


def _obstacle_to_span(layer: ReadLayer, exchange: Exchange, read: int) -> str | None:
    """Why what came of a layer cannot tell the span of so many vectors; None where it may."""
    known = [one for key in layer.keys if (one := known_rows(exchange, key)) is not None]
    came = sum(len(one.values) for one in known)
    if not came:
        return f"no whole row of {layer.keys[0]} is known"
    if read >= layer.width:
        return f"{layer.keys[0]} read {read} vectors {layer.width} wide, which span all there is"
    if read >= came:
        return f"{layer.keys[0]} read {read} vectors, of which {came} known rows do not tell the span"
    return None


def _reading(view: ServerView, exchange: Exchange) -> Reading:
    """The network by the weights that training began with, or their mean over steps on the same rows.

    The span of several steps on all rows is, to first order, that of what was read by the mean.
    """
    network, weights = view.public.network(), dict(exchange.weights)
    steps, batch = steps_of(exchange), exchange.training.batch_size
    if steps > 1 and exchange.clients == 1 and exchange.examples <= batch:
        for key, told in exchange.told.items():
            moved = np.where(told.mask, told.values, 0.0) * (steps - 1) / (2 * steps)
            weights[key] = (weights[key] + moved).astype(weights[key].dtype)
    load_weights(network, weights)
    return Reading(network, view.public.input_shape[0], view.public.classes)


@dataclass(eq=False)
class _Search:
    """The search for the texts behind one exchange."""

    view: ServerView
    exchange: Exchange
    layers: int
    beam: int
    reading: Reading = field(init=False)

    def __post_init__(self) -> None:
        self.reading = _reading(self.view, self.exchange)
        self.length = self.view.public.input_shape[0]
        self.rows = replayed_rows(self.exchange, self.view)

    def run(self, budget: Budget) -> _Found:
        first = [self._test(layer) for layer in self.reading.layers if layer.alone]
        alone = [test for test in first if test is not None]
        later = self._later()
        allowed = self._allowed(alone)
        texts, ended = self._grown(allowed, later, budget)
        if self.rows == 1 and alone:
            texts = max(texts, self._alone(allowed), key=lambda one: int((one != _OPEN).sum()))
        labels, loss = None, float("nan")
        if len(texts) == self.rows and (texts != _OPEN).all():
            labels = labels_of(self.exchange, self.reading, texts)
        if labels is not None:
            loss = cosine_distance(self.exchange, self.reading, texts, labels)
        facts = {
            "rank": float(max((test.span.rank for test in [*alone, *later]), default=0)),
            "tokens_a_place": float(np.mean([len(one) for one in allowed])),
        }
        return _Found(texts, labels, loss, ended, facts)

    def _test(self, layer: ReadLayer) -> "_Test | None":
        """The span of what a layer read, where what came of it tells one."""
        known = {key: rows for key in layer.keys if (rows := known_rows(self.exchange, key)) is not None}
        if not known:
            return None
        positions = layer.positions(self.length, tuple(known))
        # Several steps blur a span as far as the weights move, which is no random noise.
        slack = _BLUR if steps_of(self.exchange) > 1 else 1.0
        span = span_of(list(known.values()), self.rows * positions or None, slack)
        return None if span is None else _Test(layer, span, positions)

    def _later(self) -> "list[_Test]":
        """The tests of the first layers that read more than one token, as many as have to agree."""
        found: list[_Test] = []
        for layer in self.reading.layers:
            if len(found) < self.layers and not layer.alone and (test := self._test(layer)) is not None:
                found.append(test)
        return found

    def _allowed(self, alone: "Sequence[_Test]") -> list[NDArray]:
        """The tokens that may stand at each place."""
        rows = occurrence(self.exchange, self.view.public.network(), self.rows * self.length)
        classes = self.view.public.classes
        tokens = np.arange(classes) if rows is None else np.flatnonzero(rows.possible[:classes])
        fits = np.ones((len(tokens), self.length), bool)
        texts = np.repeat(tokens[:, None], self.length, axis=1)
        for test in alone:
            for part in _parts(len(texts), self.length * test.layer.width):
                (read,) = self.reading(torch.from_numpy(texts[part]), [test.layer])
                misfit = test.span.misfit(read.flatten(0, 1).numpy()).reshape(-1, self.length)
                fits[part] &= misfit <= 1
        # A first token alone has no part in a gradient of queries: it is left to the later layers.
        fits[:, 0] |= not fits[:, 0].any()
        return [tokens[fits[:, place]] for place in range(self.length)]

    def _grown(
        self, allowed: Sequence[NDArray], tests: "Sequence[_Test]", budget: Budget
    ) -> tuple[NDArray, bool]:
        """Texts that stayed in the span to their end, then those that left it, open from there on."""
        most = self.beam * self.rows if self.rows else 256
        alive, ended, untraced = np.zeros((1, 0), np.int64), list[NDArray](), 0
        for place in range(self.length):
            asked = [test for test in tests if place < test.positions]
            if budget.spent or not asked:
                break
            parents = np.repeat(np.arange(len(alive)), len(allowed[place]))
            longer = np.column_stack([alive[parents], np.tile(allowed[place], len(alive))]).astype(np.int64)
            misfit = self._misfit(longer, asked)
            fitting = np.flatnonzero(misfit <= 1)
            kept = fitting[np.argsort(misfit[fitting], kind="stable")[:most]]
            if not place and not len(fitting):  # queries again: the second token has to tell the first
                kept, untraced = np.arange(len(longer))[:_UNTRACED], 1
            if place > untraced:  # a token counts once another one fits on it
                ended += [alive[one, :-1] for one in np.setdiff1d(np.arange(len(alive)), parents[fitting])]
            alive = longer[kept]
        whole = len(alive) > 0 and alive.shape[1] == self.length
        texts = [*alive, *reversed(ended)]
        return self._filled(texts), whole or not budget.spent

    def _filled(self, texts: Sequence[NDArray]) -> NDArray:
        """At most as many as there are rows, all of one length, without those that tell nothing."""
        kept = [text for text in texts if (text != _OPEN).any()][: self.rows or None]
        filled = np.full((len(kept), self.length), _OPEN, np.int64)
        for row, text in zip(filled, kept, strict=True):
            row[: len(text)] = text
        return filled

    def _alone(self, allowed: Sequence[NDArray]) -> NDArray:
        """The only text there is (1, length), by the places at which a single token may stand."""
        text = [int(tokens[0]) if len(tokens) == 1 else _OPEN for tokens in allowed]
        return self._filled([np.asarray(text, np.int64)])

    def _misfit(self, texts: NDArray, tests: "Sequence[_Test]") -> NDArray:
        """The worst misfit (n,) of what these layers read at the last place of texts (n, tokens).

        Of a text that does not fit a layer those after it are not asked.
        """
        misfit = np.zeros(len(texts))
        for part in _parts(len(texts), texts.shape[1] * sum(test.layer.width for test in tests)):
            inside = np.arange(len(texts))[part]
            for test in tests:
                (read,) = self.reading(torch.from_numpy(texts[inside]), [test.layer])
                misfit[inside] = np.maximum(misfit[inside], test.span.misfit(read[:, -1].numpy()))
                inside = inside[misfit[inside] <= 1]
                if not len(inside):
                    break
        return misfit


@dataclass(frozen=True, eq=False)
class _Test:
    """Whether a vector is in the span of what a layer read at the first `positions` of each text."""

    layer: ReadLayer
    span: Span
    positions: int


def _parts(count: int, numbers: int) -> Iterator[slice]:
    """Slices of so many rows that each has not too many numbers."""
    size = max(1, _AT_ONCE // numbers)
    return (slice(begin, begin + size) for begin in range(0, count, size))
