"""A Grid that hands a strategy the noisy sum of a round and no client's own update."""

import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedeff.core.errors import PrivacyBudgetError, PrivacyError, ReplyError
from fedeff.core.layers import decode_record
from fedeff.core.parts import key_of, put, take
from fedeff.core.rng import generator
from fedeff.grids.cohort import Cohort, Folded
from fedeff.grids.passing import PassingGrid
from fedeff.secure.privacy.accounting import Participation, epsilon_of
from fedeff.secure.privacy.gaussian import GaussianSum
from fedeff.strategies.weighted_sum import (
    Refusal,
    Total,
    WeightedSum,
    asks_for_full,
    in_partition_order,
    read_update,
    refusal_of,
)

__all__ = ["PrivateGrid"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_ADDED = "correction"  # a record that clients add to what they have: no value of any array


class PrivateGrid(PassingGrid):
    """Another Grid, from which a strategy gets each round's sum with noise, as one `Folded` reply.

    Whatever a strategy makes of that is as private as the sum. So any strategy can run that takes a
    round's replies as their weighted sum (`fold="workers"`), and no other: one that looks at single
    replies, or at how far they are apart, is refused. A client's update is the difference of its reply to
    what it was last sent of each array, or the reply itself where displacements are asked for; it is
    clipped here, so clients need not be trusted. Metrics, numbers of examples among them, are not private
    and end here. What failed or was refused counts as an update of zero.

    `account` counts who was asked; a round after which somebody's epsilon would be above `max_epsilon` is
    not sent. Without a `noise_seed` noise comes from the operating system's randomness, as it must for
    privacy; with one a run repeats, and whoever knows the seed can take the noise off again.

    The server itself sees single updates before it clips them: it is trusted with them.

    Raises:
        PrivacyError: for messages or strategies that would reveal more, or a budget that is spent.
    """

    def __init__(
        self,
        grid: Grid,
        mechanism: GaussianSum,
        account: Participation,
        *,
        max_epsilon: float = math.inf,
        noise_seed: int | None = None,
    ) -> None:
        super().__init__(grid)
        self._mechanism, self.account, self._max_epsilon = mechanism, account, max_epsilon
        self._noise_seed = noise_seed
        self._sent: dict[str, NDArray] = {}  # what clients were last sent of each array

    @property
    def measures(self) -> Mapping[str, float]:
        """What goes on record of a round."""
        epsilon = self.account.epsilon
        return {"epsilon": epsilon} if math.isfinite(epsilon) else {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused: replies that are pulled one by one are no sum."""
        raise PrivacyError(
            "messages that are pushed have replies of their own, which are not private; "
            "take a strategy that waits for its round, such as fedavg, or noise-multiplier=0"
        )

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Any]:
        """The noisy sum of the replies to a cohort's train messages."""
        cohort = messages if isinstance(messages, Cohort) else Cohort(list(messages))
        if not len(cohort):
            return []
        fold, displaced = _summed(cohort), _asks_for_displacements(cohort.messages[0])
        nodes = [message.metadata.dst_node_id for message in cohort]
        self._check_budget(nodes)
        self._note_sent(cohort)
        self.account.ask(nodes)
        replies = list(
            in_partition_order(self.grid.send_and_receive(Cohort(cohort.messages), timeout=timeout))
        )
        base = {} if displaced else self._base(fold)
        total, failed = self._total(in_partition_order(replies), fold, base, len(nodes))
        return [Folded(total, ()), *failed]

    def model_replaced(self) -> None:
        """The next round's model has other arrays: what was sent of the old ones is no base for them."""
        self._sent.clear()
        if hasattr(self.grid, "model_replaced"):
            self.grid.model_replaced()

    def state(self) -> dict[str, NDArray]:
        """What a checkpoint must hold."""
        return self.account.state()

    def restore(self, state: Mapping[str, NDArray], model: ArrayRecord) -> None:
        """Go on from what `state` returned, and from the model that clients were or will be sent."""
        self.account.restore(state)
        self._sent = dict(decode_record(model))

    def _noise(self) -> np.random.Generator:
        if self._noise_seed is None:
            return np.random.default_rng(secrets.randbits(256))
        return generator(self._noise_seed, purpose="privacy noise", round=self.account.releases)

    def _check_budget(self, nodes: list[int]) -> None:
        if self._max_epsilon == math.inf:
            return
        account = self.account
        epsilon = epsilon_of(account.noise_multiplier, account.most_with(nodes), account.delta)
        if epsilon > self._max_epsilon:
            raise PrivacyBudgetError(
                f"this round would bring epsilon from {account.epsilon:.3g} to {epsilon:.3g}, above "
                f"max-epsilon = {self._max_epsilon:g}; the model of the round before is the run's last"
            )

    def _note_sent(self, cohort: Cohort) -> None:
        seen = set[int]()
        for message in cohort:
            if id(message.content) in seen:
                continue
            seen.add(id(message.content))
            for name, record in message.content.items():
                if isinstance(record, ArrayRecord) and name != _ADDED:
                    self._note(decode_record(record))

    def _note(self, arrays: Mapping[str, NDArray]) -> None:
        """Take over arrays, and parts of arrays that were sent before."""
        self._sent.update({key: values for key, values in arrays.items() if key_of(key) == key})
        parts = {key: v for key, v in arrays.items() if key_of(key) != key and key_of(key) in self._sent}
        if parts:
            self._sent = put(self._sent, parts)

    def _base(self, fold: WeightedSum) -> dict[str, NDArray]:
        """What each due part of the model was when it was last sent."""
        unknown = sorted({key_of(spec.key) for spec in fold.layout} - self._sent.keys())
        if unknown:
            raise PrivacyError(f"arrays {unknown} are due that were never sent: nothing to clip towards")
        return take(self._sent, [spec.key for spec in fold.layout])

    def _total(
        self, replies: Iterable[Any], fold: WeightedSum, base: Mapping[str, NDArray], asked: int
    ) -> tuple[Total, list[Message]]:
        """A total of weight `asked` whose mean is the base plus the noisy mean of updates."""
        total, failed, updates = Total(weight=float(asked)), [], []
        for reply in replies:
            if reply.has_error():
                failed.append(reply)
            elif asks_for_full(reply):
                total.need_full.append(reply.metadata.src_node_id)
            elif isinstance(update := _update_of(reply, fold, base), Refusal):
                total.refused.append(update)
            else:
                updates.append(update)
                total.nodes.append(reply.metadata.src_node_id)
        total.replies = len(updates)
        shapes = {spec.key: spec.shape for spec in fold.layout}
        noisy = self._mechanism.release(updates, shapes, self._noise())
        total.sums = {key: noisy[key] + asked * np.asarray(base.get(key, 0.0), np.float64) for key in shapes}
        return total, failed


def _summed(cohort: Cohort) -> WeightedSum:
    """How the replies are summed, where that is all that is wanted of them."""
    kind = cohort.messages[0].metadata.message_type
    if kind != "train":
        raise PrivacyError(
            f"replies to {kind!r} messages are not made private; "
            "set evaluate-clients=0 and take a strategy that only trains, such as fedavg"
        )
    if type(cohort.fold) is not WeightedSum:
        raise PrivacyError(
            "the strategy wants more of the replies than their weighted sum, which is all that is made "
            "private; take fedavg, fedprox, partial, fedluar or diloco with fold=workers"
        )
    return cohort.fold


def _asks_for_displacements(message: Message) -> bool:
    records = [record for record in message.content.values() if isinstance(record, ConfigRecord)]
    return any(record.get("reply-with") == "displacement" for record in records)


def _update_of(
    reply: Message, fold: WeightedSum, base: Mapping[str, NDArray]
) -> dict[str, NDArray] | Refusal:
    try:
        arrays = read_update(reply, fold.layout, fold.weighted_by).arrays
    except ReplyError as error:
        return refusal_of(reply, str(error))
    return {
        key: np.asarray(values, np.float64) - np.asarray(base.get(key, 0.0), np.float64)
        for key, values in arrays.items()
    }
