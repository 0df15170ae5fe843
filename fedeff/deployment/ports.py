"""Ports of this machine's loopback: a free one, and whether a SuperLink answers on one."""

import http.client
import socket
import ssl
from contextlib import closing

from fedeff.core.errors import ConfigError
from fedeff.deployment.site import LOOPBACK, Site

__all__ = ["answers", "check_free", "free_port"]

_ANSWER_S = 5.0


def free_port() -> int:
    """A port that nobody listens on at this moment. Somebody else may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def check_free(option: str, port: int) -> None:
    """Raise `ConfigError` if something listens on the port that the option asks for."""
    with socket.socket() as probe:
        # A connection closed a moment ago still lingers on the port and keeps nobody from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {error.strerror}; give another {option}, or none for a free one"
            ) from None


def answers(site: Site) -> bool:
    """Whether the SuperLink says that it is well; under TLS, with a certificate that nodes will accept."""
    with closing(_connection(site)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _connection(site: Site) -> http.client.HTTPConnection:
    if not site.tls:
        return http.client.HTTPConnection(LOOPBACK, site.port, timeout=_ANSWER_S)
    context = ssl.create_default_context(cafile=str(site.certificate("ca.crt")))
    return http.client.HTTPSConnection(LOOPBACK, site.port, timeout=_ANSWER_S, context=context)
