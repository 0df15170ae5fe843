"""Sealed messages: who to whom, of which session, round and step, and a body that nobody else changed.

    label, 34 bytes: magic "fsa" and version, protocol, step, session (16), round, sender, receiver
    nonce, 12 | body, encrypted | tag, 16

AES-256-GCM (NIST SP 800-38D) with the label as associated data.
"""

import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedeff.core.errors import SecureAggregationError
from fedeff.secure.terms import PROTOCOLS

__all__ = ["SERVER", "TAG_BYTES", "Label", "Step", "check_tag", "opened", "sealed", "tag_of"]

SERVER = 0  # its number; clients have theirs from 1

_MAGIC = b"fsa\x01"
_FORM = struct.Struct(">4sBB16sIII")
_NONCE_BYTES = 12
TAG_BYTES = _NONCE_BYTES + 16  # of a text that is not encrypted


class Step(IntEnum):
    """The steps of a session, in their order."""

    KEYS = 1
    SHARES = 2
    INPUT = 3
    REVEAL = 4
    DONE = 5


@dataclass(frozen=True)
class Label:
    """What a message is about: nothing else than the very one that is awaited is taken."""

    protocol: str
    step: Step
    session: bytes  # 16 random bytes of the server's
    server_round: int
    sender: int
    receiver: int

    def packed(self) -> bytes:
        """The 34 bytes that a message begins with."""
        where = (PROTOCOLS.index(self.protocol), self.step, self.session, self.server_round)
        return _FORM.pack(_MAGIC, *where, self.sender, self.receiver)


def sealed(key: bytes, label: Label, body: bytes) -> bytes:
    """The message of a body under a key that sender and receiver agreed upon."""
    about, nonce = label.packed(), os.urandom(_NONCE_BYTES)
    return b"".join((about, nonce, AESGCM(key).encrypt(nonce, body, about)))


def opened(key: bytes, awaited: Label, message: bytes) -> bytes:
    """The body of the message that is awaited.

    Raises:
        SecureAggregationError: for one of another session, round, step, sender or receiver, and for one
            that was changed or made by somebody else.
    """
    about = awaited.packed()
    if message[: _FORM.size] != about:
        raise SecureAggregationError(f"{_difference(message, awaited)}; it is refused")
    nonce, rest = message[_FORM.size : _FORM.size + _NONCE_BYTES], message[_FORM.size + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, rest, about)
    except (InvalidTag, ValueError):
        raise SecureAggregationError(
            f"a message of {_who(awaited.sender)} in step {awaited.step.name} was changed on the way or made "
            "by somebody else; it is refused"
        ) from None


def tag_of(key: bytes, about: bytes) -> bytes:
    """`TAG_BYTES` bytes that only a holder of the key can have made for this text."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, b"", about)


def check_tag(key: bytes, about: bytes, tag: bytes) -> None:
    """Refuse a text whose tag was not made for it by a holder of the key.

    Raises:
        SecureAggregationError: unless it was.
    """
    try:
        AESGCM(key).decrypt(tag[:_NONCE_BYTES], tag[_NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise SecureAggregationError(
            "public keys were changed on the way, or their sender has not the private ones; they are refused"
        ) from None


def _difference(message: bytes, awaited: Label) -> str:
    """The first thing about a message that is not as awaited."""
    if len(message) < _FORM.size or message[:4] != _MAGIC:
        return f"{len(message)} bytes are no message of secure aggregation"
    _, protocol, step, session, server_round, sender, receiver = _FORM.unpack_from(message)
    told = (
        ("protocol", protocol, PROTOCOLS.index(awaited.protocol)),
        ("session", session.hex(), awaited.session.hex()),
        ("round", server_round, awaited.server_round),
        ("step", step, int(awaited.step)),
        ("sender", sender, awaited.sender),
        ("receiver", receiver, awaited.receiver),
    )
    name, seen, expected = next(one for one in told if one[1] != one[2])
    return f"a message is of {name} {seen}, expected {expected}"


def _who(number: int) -> str:
    return "the server" if number == SERVER else f"client {number}"
