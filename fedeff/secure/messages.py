"""What is inside of sealed messages: small frozen values, and their only bytes."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from fedeff.core.errors import ConfigError, SecureAggregationError
from fedeff.secure.terms import Terms

__all__ = [
    "Begin",
    "InputRequest",
    "PeerKeys",
    "RevealRequest",
    "Revealed",
    "Roster",
    "SealedShares",
    "read",
    "written",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Begin:
    """Server to one client: a session. Open to all; whoever answers seals with its digest."""

    terms: Terms
    session: bytes  # 16 random bytes
    server_round: int
    number: int  # of the client, from 1
    size: int  # elements of the vector to be summed
    server_key: bytes


@dataclass(frozen=True)
class PeerKeys:
    """A client's public keys: for messages to it, and for masks shared with it."""

    number: int
    messages: bytes
    masks: bytes


@dataclass(frozen=True)
class Roster:
    """Server to one client: the keys of those that it shares with."""

    peers: tuple[PeerKeys, ...]


@dataclass(frozen=True)
class SealedShares:
    """Client to server: a sealed share for each of its peers, and the digest of its own mask's seed."""

    commitment: bytes
    receivers: tuple[int, ...]
    shares: tuple[bytes, ...]


@dataclass(frozen=True)
class InputRequest:
    """Server to one client: who has shared with it, and what is to be summed."""

    sharers: tuple[int, ...]
    plan: bytes


@dataclass(frozen=True)
class RevealRequest:
    """Server to one client: of whom to reveal what, with the sealed shares that hold it.

    `present` are those whose input came, `lost` those whose input did not. With LightSecAgg nothing is
    revealed of the lost ones.
    """

    present: tuple[int, ...]
    lost: tuple[int, ...]
    senders: tuple[int, ...]
    shares: tuple[bytes, ...]


@dataclass(frozen=True)
class Revealed:
    """Client to server: elements, and of whom each equal part of them is."""

    owners: tuple[int, ...]
    elements: bytes


def written(value: object) -> bytes:
    """The bytes of a message's value (MessagePack)."""
    return msgspec.msgpack.encode(value)


def read(kind: type[T], data: bytes) -> T:
    """The value that these are the bytes of.

    Raises:
        SecureAggregationError: for any others, also for other ways to write the same value.
    """
    try:
        value = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ConfigError) as error:
        raise SecureAggregationError(f"{len(data)} bytes are no {kind.__name__}: {error}") from None
    if written(value) != data:
        raise SecureAggregationError(f"{len(data)} bytes are no {kind.__name__} as it is written here")
    return value
