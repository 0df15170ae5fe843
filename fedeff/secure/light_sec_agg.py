"""LightSecAgg's two sides (So et al., arXiv:2109.14236): masks that are recovered all at once, as a sum."""

import hashlib

import numpy as np

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME, Elements
from fedeff.secure.client_session import ClientSession
from fedeff.secure.mask_shares import mask_shares, mask_sum, piece_length
from fedeff.secure.masks import elements_of, expanded, packed
from fedeff.secure.messages import Revealed, RevealRequest
from fedeff.secure.server_session import ServerSession

__all__ = ["LightSecAggClient", "LightSecAggServer"]


class LightSecAggClient(ClientSession):
    """Uploads `x_i + z_i`; later the sum of the shares that it holds of the present clients' masks.

    A share has `size / (U - T)` elements, so shares take `N / (U - T)` times the vector's bytes; in return
    the server's work does not grow with how many drop out. The mask and the noise that hides it in the
    shares are expanded from one secret seed.
    """

    def mask(self) -> Elements:
        """`z_i`."""
        return expanded(self.kept.seed, self.begin.size)

    def shares(self) -> list[bytes]:
        """A coded share of the mask for each peer; the client's own is made when it is needed."""
        return [packed(share) for share in self._coded(tuple(peer.number for peer in self.kept.peers))]

    def revealed(self, request: RevealRequest, shares: dict[int, bytes]) -> Revealed:
        """The sum of the present clients' shares, its own among them."""
        total = np.zeros(piece_length(self.begin.size, self.begin.terms), np.int64)
        for number in request.present:
            one = shares.get(number)
            total += self._own_share() if one is None else elements_of(one, len(total))
        return Revealed(tuple(sorted(request.present)), packed(total % PRIME))

    def _own_share(self) -> Elements:
        share: Elements = self._coded((self.number,))[0]
        return share

    def _coded(self, receivers: tuple[int, ...]) -> Elements:
        terms = self.begin.terms
        length = piece_length(self.begin.size, terms)
        secret = hashlib.sha256(b"fedeff noise of mask shares" + self.kept.seed).digest()
        noise = expanded(secret, terms.privacy * length).reshape(terms.privacy, length)
        return mask_shares(self.mask(), noise, terms, receivers)


class LightSecAggServer(ServerSession):
    """Takes the masks' sum off in one piece, once any U of the present clients have told theirs."""

    def reveal_lists(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """All present clients, and nobody lost: of those nothing is needed."""
        return tuple(sorted(self.present)), ()

    def check_revealed(self, number: int, revealed: Revealed) -> None:
        """Refuse a sum over other clients than those present, or of another length."""
        if revealed.owners != tuple(sorted(self.present)):
            raise SecureAggregationError(f"client {number} summed the shares of other clients than asked for")
        elements_of(revealed.elements, piece_length(self.size, self.terms))

    def masks(self) -> Elements:
        """The sum of the present clients' masks."""
        length = piece_length(self.size, self.terms)
        holders = sorted(self.revealed)
        sums = np.array([elements_of(self.revealed[one].elements, length) for one in holders])
        return mask_sum(holders, sums, self.size, self.terms)
