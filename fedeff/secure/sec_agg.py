"""SecAgg's two sides (Bonawitz et al., CCS 2017, figure 4), and SecAgg+ (Bell et al., eprint 2020/704)."""

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME, Elements
from fedeff.secure.client_session import ClientSession, commitment_of
from fedeff.secure.graph import holders_of
from fedeff.secure.keys import KeyPair, public_of
from fedeff.secure.masks import ELEMENT_BYTES, SEED_BYTES, add_mask, elements_of, packed
from fedeff.secure.messages import Revealed, RevealRequest
from fedeff.secure.server_session import ServerSession
from fedeff.secure.shamir import recovered, shares_of

__all__ = ["SecAggClient", "SecAggServer"]

_LIMBS = SEED_BYTES // 2  # elements of a share of one secret
_SHARE_BYTES = ELEMENT_BYTES * _LIMBS
_PAIR = b"fedeff mask of a pair"


class SecAggClient(ClientSession):
    """Uploads `x_i + PRG(b_i) + sum_(j > i) PRG(s_ij) - sum_(j < i) PRG(s_ij)`.

    The masks of pairs cancel in the sum. Peers hold Shamir shares of `b_i` and of the private key behind
    all `s_ij`, and reveal the one of those present, the other of those lost, never both. SecAgg+ is the
    same among the neighbours of a graph. Not for many drop-outs: the server then expands the masks of all
    pairs with a lost one.
    """

    def shares(self) -> list[bytes]:
        """For each peer its share of the seed and of the private key."""
        numbers = [peer.number for peer in self.kept.peers]
        points = np.array([*numbers, self.number], np.int64)
        secrets = [self.kept.seed, self.kept.masks_key]
        *of_peers, own = shares_of(secrets, self.begin.terms.threshold, points)
        self._keep_own(packed(own.reshape(-1)))
        return [packed(share.reshape(-1)) for share in of_peers]

    def mask(self) -> Elements:
        """The sum of its own mask and those of its pairs."""
        added, taken = np.zeros(self.begin.size, np.int64), np.zeros(self.begin.size, np.int64)
        add_mask(added, self.kept.seed)
        keys = {peer.number: peer.masks for peer in self.kept.peers}
        own = KeyPair.of(self.kept.masks_key)
        for number in self.kept.sharers:
            add_mask(
                added if number > self.number else taken, _pair_seed(own, keys[number], self.begin.session)
            )
        return np.asarray(np.mod(added - taken, PRIME))

    def revealed(self, request: RevealRequest, shares: dict[int, bytes]) -> Revealed:
        """Its shares: of the seeds of those present, of the private keys of those lost."""
        owners = tuple(sorted((*request.present, *request.lost)))
        held = {**shares, self.number: self.kept.own_share}
        for owner in owners:
            elements_of(held[owner], 2 * _LIMBS)
        parts = [
            held[owner][:_SHARE_BYTES] if owner in request.present else held[owner][_SHARE_BYTES:]
            for owner in owners
        ]
        return Revealed(owners, b"".join(parts))


class SecAggServer(ServerSession):
    """Takes off the own masks of those present, and the masks that they share with those lost."""

    def reveal_lists(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of whose secrets this client holds shares."""
        held = [one for one in holders_of(number, self.terms, self.session) if one in self.sealed]
        present = tuple(one for one in held if one in self.present)
        return present, tuple(one for one in held if one not in self.present)

    def check_revealed(self, number: int, revealed: Revealed) -> None:
        """Refuse shares of others than asked for, or what are no elements."""
        present, lost = self.reveal_lists(number)
        if revealed.owners != tuple(sorted((*present, *lost))):
            raise SecureAggregationError(f"client {number} reveals shares of others than asked for")
        elements_of(revealed.elements, _LIMBS * len(revealed.owners))

    def masks(self) -> Elements:
        """The sum of all masks that do not cancel."""
        secrets = self._secrets()
        added, taken = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        for number in sorted(self.present):
            if commitment_of(secrets[number]) != self.sealed[number].commitment:
                raise _wrong_shares(number)
            add_mask(added, secrets[number])
        for number in sorted(self.sealed.keys() - self.present):
            if number not in secrets:  # none of those present shares a mask with it
                continue
            if public_of(secrets[number]) != self.keys[number].masks:
                raise _wrong_shares(number)
            pair = KeyPair(secrets[number], self.keys[number].masks)
            for other in self._around(number, self.sealed):
                if other in self.present:
                    seed = _pair_seed(pair, self.keys[other].masks, self.session)
                    add_mask(added if other < number else taken, seed)
        return np.asarray(np.mod(added - taken, PRIME))

    def _secrets(self) -> dict[int, bytes]:
        """By owner the seed of those present, the private key of those lost."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for owner in sorted(self.sealed):
            holders = [n for n in holders_of(owner, self.terms, self.session) if n in self.revealed]
            if not holders and owner not in self.present:
                continue
            if len(holders) < self.terms.threshold:
                raise SecureAggregationError(
                    f"{len(holders)} shares of a secret of client {owner} were revealed, expected at least "
                    f"{self.terms.threshold}; the round is refused"
                )
            alike.setdefault(tuple(holders[: self.terms.threshold]), []).append(owner)
        return {
            owner: secret
            for holders, owners in alike.items()
            for owner, secret in zip(owners, self._recovered(holders, owners), strict=True)
        }

    def _recovered(self, holders: tuple[int, ...], owners: list[int]) -> list[bytes]:
        shares = [[self._share(holder, owner) for owner in owners] for holder in holders]
        return recovered(np.array(holders, np.int64), np.array(shares))

    def _share(self, holder: int, owner: int) -> Elements:
        revealed = self.revealed[holder]
        start = _SHARE_BYTES * revealed.owners.index(owner)
        return elements_of(revealed.elements[start : start + _SHARE_BYTES], _LIMBS)


def _pair_seed(own: KeyPair, other: bytes, session: bytes) -> bytes:
    """The seed that two clients share, the same from either side."""
    return own.agreed(other, _PAIR + session)


def _wrong_shares(number: int) -> SecureAggregationError:
    return SecureAggregationError(
        f"the shares of client {number}'s secret give another one than it has: one of them is wrong; "
        "the round is refused"
    )
