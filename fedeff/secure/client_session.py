"""A client's side of a session: what LightSecAgg's and SecAgg's have in common.

    begun(invitation) -> session, its keys
    session.share(roster) -> sealed shares for its peers
    session.asked(request) -> the plan of what is summed; session.masked(vector) -> the masked vector
    session.reveal(request) -> what makes the others' sum readable

Each step is answered once, in this order. What a client must keep between messages is `kept`, a value.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import Elements, add
from fedeff.secure.envelope import SERVER, Label, Step, opened, sealed, tag_of
from fedeff.secure.keys import KeyPair
from fedeff.secure.masks import SEED_BYTES, packed
from fedeff.secure.messages import (
    Begin,
    InputRequest,
    PeerKeys,
    Revealed,
    RevealRequest,
    Roster,
    SealedShares,
    read,
    written,
)

__all__ = ["CHANNEL", "ClientSession", "Kept", "commitment_of"]

_PEERS, CHANNEL = b"fedeff share for a peer", b"fedeff messages with the server"


@dataclass(frozen=True, repr=False)
class Kept:
    """All that a client keeps of a session from one message to the next. Secret: its `repr` tells nothing."""

    invitation: bytes
    messages_key: bytes  # private
    masks_key: bytes  # private
    seed: bytes  # of the client's own mask
    next_step: int = Step.SHARES
    peers: tuple[PeerKeys, ...] = ()
    sharers: tuple[int, ...] = ()
    own_share: bytes = b""  # of its own secrets, where it holds one


class ClientSession(ABC):
    """One client in one session; `kept` makes an equal one in another process."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.begin = read(Begin, kept.invitation)
        self._messages, self._masks = KeyPair.of(kept.messages_key), KeyPair.of(kept.masks_key)
        # Whatever the server said at first is part of the key: told something else, it cannot read on.
        purpose = CHANNEL + hashlib.sha256(kept.invitation).digest()
        self._channel = self._messages.agreed(self.begin.server_key, purpose)

    @staticmethod
    def fresh(invitation: bytes) -> Kept:
        """What a client keeps when it joins: new keys, a new seed.

        Raises:
            SecureAggregationError: where the invitation cannot be read or names an impossible number.
        """
        begin = read(Begin, invitation)
        if not 1 <= begin.number <= begin.terms.clients or len(begin.session) != 16 or begin.size < 1:
            raise SecureAggregationError(
                f"invited as client {begin.number} of {begin.terms.clients} to sum {begin.size} elements; "
                "expected a number from 1 and something to sum"
            )
        masks, messages = KeyPair.new(), KeyPair.new()
        return Kept(invitation, messages.private, masks.private, os.urandom(SEED_BYTES))

    @property
    def number(self) -> int:
        """The client's, from 1."""
        return self.begin.number

    def keys(self) -> bytes:
        """The first answer: the public keys, under a tag that proves the private one."""
        about = self._label(Step.KEYS).packed() + self._messages.public + self._masks.public
        return about + tag_of(self._channel, about)

    def share(self, message: bytes) -> bytes:
        """The answer to the roster: a share of the client's secrets for each peer, sealed for it alone.

        Raises:
            SecureAggregationError: where fewer peers are there than the terms need, or the message is not
                the one that is awaited.
        """
        peers = read(Roster, self._opened(Step.SHARES, message)).peers
        self._check_peers(tuple(peer.number for peer in peers))
        self.kept = replace(self.kept, peers=peers, next_step=Step.INPUT)
        sealed_shares = [
            sealed(self._key_with(peer), self._label(Step.SHARES, peer.number), body)
            for peer, body in zip(peers, self.shares(), strict=True)
        ]
        receivers = tuple(peer.number for peer in peers)
        return self._answer(
            Step.SHARES,
            written(SealedShares(commitment_of(self.kept.seed), receivers, tuple(sealed_shares))),
        )

    def asked(self, message: bytes) -> bytes:
        """The plan of what is summed, from the server's request; `masked` answers it.

        Raises:
            SecureAggregationError: where too few peers have shared their secrets to hide this client.
        """
        request = read(InputRequest, self._opened(Step.INPUT, message))
        if set(request.sharers) - {peer.number for peer in self.kept.peers}:
            raise SecureAggregationError("the server names sharers whose keys it never told; expected peers")
        self._check_enough(len(set(request.sharers)))
        self.kept = replace(self.kept, sharers=request.sharers)
        return request.plan

    def masked(self, vector: Elements) -> bytes:
        """The vector under the client's masks, sealed; once only, as two would tell their difference.

        Raises:
            SecureAggregationError: for a vector of another size, and where it was not asked for.
        """
        if vector.shape != (self.begin.size,):
            raise SecureAggregationError(
                f"a vector of shape {vector.shape}, expected {self.begin.size} elements as agreed at first"
            )
        if self.kept.next_step != Step.INPUT or not self.kept.sharers:
            raise SecureAggregationError("a masked vector was not asked for, or was sent before")
        self.kept = replace(self.kept, next_step=Step.REVEAL)
        return self._answer(Step.INPUT, packed(add(vector, self.mask())))

    def reveal(self, message: bytes) -> bytes:
        """What the server needs to take the masks off the sum, and no more.

        Raises:
            SecureAggregationError: where fewer clients are in the sum than the terms say, where it asks for
                both secrets of one client, or of one that is no sharer.
        """
        request = read(RevealRequest, self._opened(Step.REVEAL, message))
        self._check_reveal(request)
        self.kept = replace(self.kept, next_step=Step.DONE)
        by_sender = dict(zip(request.senders, request.shares, strict=True))
        bodies = {peer.number: self._from(peer, by_sender) for peer in self._asked_of(request)}
        return self._answer(Step.REVEAL, written(self.revealed(request, bodies)))

    @abstractmethod
    def shares(self) -> list[bytes]:
        """The share of the client's secrets for each of `kept.peers`."""

    @abstractmethod
    def mask(self) -> Elements:
        """What hides the client's vector."""

    @abstractmethod
    def revealed(self, request: RevealRequest, shares: dict[int, bytes]) -> Revealed:
        """The answer to a request, from the peers' shares, opened."""

    def _keep_own(self, share: bytes) -> None:
        self.kept = replace(self.kept, own_share=share)

    def _asked_of(self, request: RevealRequest) -> list[PeerKeys]:
        """The peers whose shares are needed: here all that the request is about."""
        wanted = {*request.present, *request.lost} - {self.number}
        return [peer for peer in self.kept.peers if peer.number in wanted]

    def _check_reveal(self, request: RevealRequest) -> None:
        present, lost = set(request.present), set(request.lost)
        if both := present & lost:
            raise SecureAggregationError(
                f"the server asks for both secrets of client {min(both)}, which would show its input; refused"
            )
        if self.number in lost or (present | lost) - {*self.kept.sharers, self.number}:
            raise SecureAggregationError(
                "the server calls this client lost, or names one that has not shared its secrets; refused"
            )
        if len(request.present) != len(present) or len(request.lost) != len(lost):
            raise SecureAggregationError("the server names a client twice; refused")
        if len(request.senders) != len(request.shares):
            raise SecureAggregationError("the server sends shares without their senders; refused")
        self._check_present(len(present - {self.number}))

    def _check_present(self, others: int) -> None:
        """Refuse where the sum would be of too few."""
        self._check_enough(others)

    def _check_enough(self, others: int) -> None:
        needed = self._fewest_peers
        if others < needed:
            raise SecureAggregationError(
                f"{others} other clients are left around client {self.number}, expected at least {needed}; "
                "the round's sum is refused"
            )

    @property
    def _fewest_peers(self) -> int:
        """Beside the client itself."""
        return self.begin.terms.threshold - 1

    def _check_peers(self, numbers: tuple[int, ...]) -> None:
        terms = self.begin.terms
        wrong = self.number in numbers or any(not 1 <= one <= terms.clients for one in numbers)
        if wrong or len(set(numbers)) != len(numbers) or len(numbers) > terms.neighbours:
            raise SecureAggregationError(
                f"a roster of clients {numbers}, expected each other one of {terms.clients} once at most"
            )
        self._check_enough(len(numbers))

    def _opened(self, step: Step, message: bytes) -> bytes:
        if self.kept.next_step != step:
            raise SecureAggregationError(
                f"a message of step {step.name}, expected step {Step(self.kept.next_step).name}: "
                "each step is answered once"
            )
        return opened(self._channel, replace(self._label(step), sender=SERVER, receiver=self.number), message)

    def _from(self, peer: PeerKeys, by_sender: dict[int, bytes]) -> bytes:
        if peer.number not in by_sender:
            raise SecureAggregationError(f"no share of client {peer.number} came with the request; refused")
        label = replace(self._label(Step.SHARES), sender=peer.number, receiver=self.number)
        return opened(self._key_with(peer), label, by_sender[peer.number])

    def _answer(self, step: Step, body: bytes) -> bytes:
        return sealed(self._channel, self._label(step), body)

    def _key_with(self, peer: PeerKeys) -> bytes:
        return self._messages.agreed(peer.messages, _PEERS + self.begin.session)

    def _label(self, step: Step, receiver: int = SERVER) -> Label:
        begin = self.begin
        return Label(begin.terms.protocol, step, begin.session, begin.server_round, begin.number, receiver)


def commitment_of(seed: bytes) -> bytes:
    """What tells whether a seed is the one that was shared, and nothing about a seed that is not known."""
    return hashlib.sha256(b"fedeff seed" + seed).digest()
