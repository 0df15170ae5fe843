"""Local privacy: a Flower mod under which a client's change leaves it clipped and with noise, never else."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedeff.clients.clipped_noise import ClippedNoise
from fedeff.core.errors import PrivacyError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.parts import key_of, put, take
from fedeff.core.rng import generator

__all__ = ["LocalPrivacy"]

NDArray = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, NDArray]

_STATE = "local-privacy"  # of a client that is sent a model in pieces: what it was last sent of each array
_ADDED = "correction"  # a record that clients add to what they have: no value of any array
# What a sum needs of a reply beside its arrays, and what says whose it is; no measure of the data's values.
_NEEDED = ("num-examples", "num-steps", "partition-id", "need-full")
_CHANGES = ("accumulate", "coded-gradient")  # procedures that answer with gradients


@dataclass(frozen=True)
class LocalPrivacy:
    """Flower mod: replies to train messages tell a change that is clipped and noisy (see `ClippedNoise`).

    The change is what the reply's arrays are less what the client was last sent of them; replies that
    tell displacements or gradients are changes as they are. Both ends know what was sent, so whatever
    the client does between two replies, one reply's change is all that it reveals. Integers, such as
    the counters of BatchNorm, go back as they came.

    Give it last, so that it is the innermost one: codecs and secure aggregation then see the noisy
    change, and nothing sees the plain one. It comes before (inside of) `codec_mod` and `SecureMod`:
    `ClientApp(mods=[codec_mod, SecureMod(), LocalPrivacy(...)])`.

    With `quiet` the reply's metrics are those that a sum needs: the number of examples, of steps, the
    partition; the training loss and other measures of the client's data, on which no noise is, are left
    out. The number of examples is told in the clear. Without a `seed` noise comes from the operating
    system's randomness, as it must for privacy; with one it repeats for a round and client, and whoever
    knows the seed can take it off. A request that comes twice is answered with fresh noise: that is one
    release more. An error, such as that of training that diverged, is told in the clear.
    """

    mechanism: ClippedNoise
    quiet: bool = False
    seed: int | None = None

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """The reply with what may be told."""
        return self.protected(message, context, call_next(message, context))

    def protected(self, message: Message, context: Context, reply: Message) -> Message:
        """The reply to this message with its arrays clipped and noisy, and few metrics if `quiet`.

        Raises:
            PrivacyError: where a reply holds arrays of which the client does not know what it was sent.
            ReplyError: for a change that is not finite.
        """
        if message.metadata.message_type != MessageType.TRAIN or reply.has_error():
            return reply
        config = _config_of(message.content)
        records: dict[str, Any] = dict(reply.content.items())
        named = [name for name, record in records.items() if isinstance(record, ArrayRecord) and len(record)]
        rng = self._generator(config, context)
        if named and (self.mechanism.clipping_norm or self.mechanism.noise_multiplier):
            base = None if _tells_changes(config) else _noted(message.content, context, "cycle" in config)
            for name in named:
                records[name] = encode_record(self._told(decode_record(records[name]), base, rng))
        if self.quiet:
            records = {name: _needed(record) for name, record in records.items()}
        return with_content(reply, RecordDict(records))

    def _told(self, arrays: Arrays, base: Arrays | None, rng: np.random.Generator) -> dict[str, NDArray]:
        before = _before(arrays, base)
        change = {
            key: values.astype(np.float64) - before[key]
            for key, values in arrays.items()
            if values.dtype.kind == "f"
        }
        released = self.mechanism.released(change, rng)
        return {
            key: (before[key] + released[key] if key in released else before[key]).astype(values.dtype)
            for key, values in arrays.items()
        }

    def _generator(self, config: Mapping[str, Any], context: Context) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(secrets.randbits(256))
        server_round, partition = config.get("server-round", 0), context.node_config.get("partition-id")
        client = partition if type(partition) is int and partition >= 0 else context.node_id
        return generator(self.seed, purpose="local noise", round=server_round, client=client)


def _config_of(content: RecordDict) -> Mapping[str, Any]:
    record = content.get("config")
    return dict(record.items()) if isinstance(record, ConfigRecord) else {}


def _tells_changes(config: Mapping[str, Any]) -> bool:
    return config.get("reply-with") == "displacement" or config.get("procedure") in _CHANGES


def _noted(content: RecordDict, context: Context, keeps: bool) -> dict[str, NDArray]:
    """What the client was last sent of each array; in its state where models come in pieces."""
    held = context.state.get(_STATE) if keeps else None
    known = decode_record(held) if isinstance(held, ArrayRecord) else {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord) and name != _ADDED:
            known = _noting(known, decode_record(record))
    if keeps:
        context.state[_STATE] = encode_record(known)
    return known


def _noting(known: Arrays, sent: Arrays) -> dict[str, NDArray]:
    whole = {key: values for key, values in sent.items() if key_of(key) == key}
    rows = {part: values for part, values in sent.items() if key_of(part) != part and key_of(part) in known}
    return put({**known, **whole}, rows)


def _before(arrays: Arrays, base: Arrays | None) -> dict[str, NDArray]:
    """What each array of a reply is a change from, in float64 (integers as they are)."""
    if base is None:
        return {key: np.zeros(values.shape) for key, values in arrays.items()}
    unknown = sorted(part for part in arrays if key_of(part) not in base)
    if unknown:
        raise PrivacyError(
            f"the client is to tell {unknown}, of which it was sent nothing to clip its change towards; send "
            "the whole model at least once, or ask for displacements"
        )
    before = take(base, arrays)
    return {key: b.astype(np.float64) if b.dtype.kind == "f" else b for key, b in before.items()}


def _needed(record: Any) -> Any:
    if not isinstance(record, MetricRecord):
        return record
    return MetricRecord({key: value for key, value in record.items() if key in _NEEDED})
