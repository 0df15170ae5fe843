"""What the parties of one secure sum agree upon: how many they are, who may be lost, who may collude."""

from dataclasses import dataclass
from math import comb, floor

from fedeff.core.errors import ConfigError, unknown_name

__all__ = ["PROTOCOLS", "Terms", "terms_for"]

PROTOCOLS = ("lightsecagg", "secagg", "secagg+")
_LEAK = 2.0**-20  # the most that colluders around some client may be enough, over all clients
_FAIL = 1e-4  # the same for too few neighbours left to give a secret back


@dataclass(frozen=True)
class Terms:
    """The sizes of a session.

    `threshold` is how many shares give a secret back: U of LightSecAgg, t of SecAgg, of those in a
    neighbourhood with SecAgg+. Fewer than `fewest` clients at any step end the session without a result.
    """

    protocol: str
    clients: int  # numbered from 1
    threshold: int
    privacy: int  # clients that may put together what they see with the server and learn no other's input
    fewest: int
    neighbours: int  # with whom a client shares secrets and masks; all others but with SecAgg+

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol of secure aggregation", self.protocol, PROTOCOLS)
        if self.clients < 2 or not 0 < self.neighbours < self.clients:
            raise ConfigError(
                f"{self.clients} clients with {self.neighbours} neighbours each, expected two clients or "
                "more and fewer neighbours than clients; ask a larger cohort"
            )
        if not 1 <= self.privacy < self.threshold <= self.neighbours + 1 or self.threshold > self.fewest:
            raise ConfigError(
                f"threshold {self.threshold} for {self.privacy} that may collude and {self.fewest} that "
                "stay, expected 1 <= privacy < threshold <= fewest; allow fewer drop-outs or fewer colluders"
            )
        if self.fewest > self.clients or 2 * self.fewest <= self.clients:
            raise ConfigError(
                f"{self.fewest} of {self.clients} clients are to be enough, expected more than half of them, "
                "or a server could end one session twice with other clients; allow fewer drop-outs"
            )

    @property
    def piece_count(self) -> int:
        """Into how many pieces LightSecAgg cuts a mask: `U - T`."""
        return self.threshold - self.privacy


def terms_for(
    protocol: str, clients: int, *, dropout: float = 0.3, privacy: float = 0.2, neighbours: int = 0
) -> Terms:
    """The terms where these shares of the clients may drop out, and may collude with the server.

    `neighbours` is of `secagg+`: 0 takes the fewest for which, in a random graph, all clients together
    stay below a chance of 2^-20 that colluders learn a secret and of 1e-4 that one is lost (the
    argument of Bell et al., eprint 2020/704, theorem 3.10, with hypergeometric tails instead of bounds).

    Raises:
        ConfigError: where no such session is possible.

    >>> terms_for("lightsecagg", 10).threshold
    7
    """
    lost, colluding = floor(dropout * clients + 1e-9), max(1, floor(privacy * clients + 1e-9))
    fewest = clients - lost
    if protocol != "secagg+":
        return Terms(protocol, clients, fewest, colluding, fewest, clients - 1)
    if neighbours:
        chosen = min(neighbours + neighbours % 2, clients - 1)
    else:
        chosen = _fewest_neighbours(clients, lost, colluding)
    threshold = _threshold(clients, colluding, chosen)
    return Terms(protocol, clients, threshold, min(colluding, threshold - 1), fewest, chosen)


def _fewest_neighbours(clients: int, lost: int, colluding: int) -> int:
    for neighbours in range(2, clients - 1, 2):
        threshold = _threshold(clients, colluding, neighbours)
        if clients * _tail(clients - 1, clients - lost, neighbours, 0, threshold) <= _FAIL:
            return neighbours
    return clients - 1


def _threshold(clients: int, colluding: int, neighbours: int) -> int:
    """The fewest shares that colluders hold of no client's secret, but for a negligible chance."""
    return next(
        t
        for t in range(2, neighbours + 2)
        if t > neighbours or clients * _tail(clients - 1, colluding, neighbours, t, neighbours + 1) <= _LEAK
    )


def _tail(others: int, marked: int, drawn: int, first: int, end: int) -> float:
    """The chance that of `drawn` out of `others` from `first` up to, but without, `end` are marked."""
    marked = min(marked, others)
    ways = sum(comb(marked, x) * comb(others - marked, drawn - x) for x in range(first, min(end, drawn + 1)))
    return ways / comb(others, drawn)
