"""The two sides of each protocol, by its name."""

from fedeff.core.errors import unknown_name
from fedeff.secure.client_session import ClientSession
from fedeff.secure.light_sec_agg import LightSecAggClient, LightSecAggServer
from fedeff.secure.sec_agg import SecAggClient, SecAggServer
from fedeff.secure.server_session import ServerSession
from fedeff.secure.terms import PROTOCOLS, Terms

__all__ = ["client_side", "server_side"]

_CLIENTS: dict[str, type[ClientSession]] = {
    "lightsecagg": LightSecAggClient,
    "secagg": SecAggClient,
    "secagg+": SecAggClient,
}
_SERVERS: dict[str, type[ServerSession]] = {
    "lightsecagg": LightSecAggServer,
    "secagg": SecAggServer,
    "secagg+": SecAggServer,
}


def client_side(protocol: str) -> type[ClientSession]:
    """The client's class. Raises ConfigError for an unknown protocol."""
    if protocol not in _CLIENTS:
        raise unknown_name("protocol of secure aggregation", protocol, PROTOCOLS)
    return _CLIENTS[protocol]


def server_side(terms: Terms, size: int, server_round: int) -> ServerSession:
    """A new session of the terms' protocol."""
    return _SERVERS[terms.protocol](terms, size, server_round)
