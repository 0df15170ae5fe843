"""TAG: texts by descent on embeddings whose gradient is to match (Deng et al., arXiv:2103.06819)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedeff.audit.attacks.embedding_rows import occurrence
from fedeff.audit.finding import Budget, Finding
from fedeff.audit.replay.forward import first_embedding
from fedeff.audit.replay.matching import Matching, obstacle_to_replay
from fedeff.audit.view import NDArray, ServerView
from fedeff.core.errors import AuditError
from fedeff.models.threads import one_thread

__all__ = ["Tag"]

_LIKELY = 2.0  # the score of a label among the tokens that were read, to begin with
_EXACT = 1e-4  # a match so near is the text's own: another token moves it by far more


@dataclass(frozen=True)
class Tag:
    """Embeddings and labels that would have told what came, each place then read as the nearest token.

    What is minimised is the squared error plus `alpha` times its absolute value, summed over known entries,
    with each array's error divided by its norm where the paper weighs layers by their depth. Adam begins at
    those of random tokens, with a step of `learning_rate` in units of the embedding's own spread, which
    falls to zero over `steps`. Tokens whose embedding did not move have no part; labels are those that
    follow, the last one as the descent found it.

    It needs no low rank and no whole rows, so it takes masked entries, several steps and encoders; but
    it is slow, and beyond a few short texts it finds tokens, not texts. Where `Dager` can be tried it
    is better in every respect.
    """

    name: str = "tag"
    alpha: float = 0.01
    learning_rate: float = 0.1
    steps: int = 600
    restarts: int = 4

    def obstacle(self, view: ServerView) -> str | None:
        """Why it cannot be tried on this view, in one line; None where it can."""
        if view.public.task != "next-character":
            return f"it rebuilds tokens; the task is {view.public.task!r}"
        if first_embedding(view.public.network()) is None:
            return "the model has no embedding of tokens"
        return obstacle_to_replay(view)

    def run(self, view: ServerView, budget: Budget, rng: np.random.Generator) -> Finding:
        """The texts of the best restart, by the squared error of their tokens, and their labels."""
        if (why := self.obstacle(view)) is not None:
            raise AuditError(f"{self.name}: {why}")
        began, best, tried = time.monotonic(), None, 0
        with one_thread():
            matching = Matching(view)
            descent = _Descent(self, view, matching, _tokens(view, matching))
            for _ in range(self.restarts):
                generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
                found = descent.run(budget, generator)
                tried += 1
                if best is None or found.loss < best.loss:
                    best = found
                if best.loss < _EXACT or budget.spent:
                    break
        assert best is not None
        facts = {"restarts": float(tried), "steps": float(best.steps)}
        ended = best.loss < _EXACT or not budget.spent
        seconds = time.monotonic() - began
        return Finding(self.name, best.texts, best.labels, best.loss, ended, seconds, facts)


@dataclass(frozen=True, eq=False)
class _Found:
    """Where one restart ended."""

    texts: NDArray
    labels: NDArray
    loss: float
    steps: int


@dataclass(frozen=True, eq=False)
class _Descent:
    """The descent on one view."""

    options: Tag
    view: ServerView
    matching: Matching
    tokens: Tensor

    def run(self, budget: Budget, generator: torch.Generator) -> _Found:
        """One restart, cut short where the budget is spent."""
        table, options = self._table, self.options
        size = (self.matching.rows, *self.matching.shape)
        drawn = torch.randint(len(self.tokens), size, generator=generator)
        spread = float(table.std())
        x = (table[self.tokens[drawn]] / spread).requires_grad_()
        scores = torch.zeros((*size, self.view.public.classes), dtype=table.dtype)
        scores[..., self.tokens] = _LIKELY  # what is read mostly follows something
        scores.requires_grad_()
        optimiser = torch.optim.Adam([x, scores], lr=options.learning_rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
        step = 0
        while step < options.steps and not budget.spent:
            optimiser.zero_grad()
            error = self.matching.residual(spread * x, scores.softmax(-1))
            (error.square().sum() + options.alpha * error.abs().sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
            step += 1
        return self._read(spread * x.detach(), scores.detach(), step)

    def _read(self, x: Tensor, scores: Tensor, step: int) -> _Found:
        """The nearest tokens and what they miss by."""
        allowed = self.tokens
        texts = allowed[torch.cdist(x.flatten(0, 1), self._table[allowed]).argmin(1)].view(x.shape[:2])
        labels = torch.cat([texts[:, 1:], scores[:, -1:].argmax(-1)], 1)
        with torch.no_grad():
            loss = float(self.matching.squared(texts, labels))
        return _Found(texts.numpy(), labels.numpy(), loss, step)

    @property
    def _table(self) -> Tensor:
        table = self.matching.embedding
        assert table is not None
        return table


def _tokens(view: ServerView, matching: Matching) -> Tensor:
    """The tokens that may have been read."""
    read = matching.rows * view.public.input_shape[0]
    found = occurrence(view.first, view.public.network(), read)
    if found is None:
        return torch.arange(view.public.classes)
    return torch.from_numpy(np.flatnonzero(found.possible[: view.public.classes]))
