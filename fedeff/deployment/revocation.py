"""Revoking a node's key: the SuperLink never takes it again."""

from fedeff.core.errors import ConfigError
from fedeff.deployment import processes
from fedeff.deployment.flwr_command import flwr
from fedeff.deployment.node_keys import is_revoked, mark_revoked, read_node_id
from fedeff.deployment.site import Site

__all__ = ["revoke"]


def revoke(site: Site, number: int) -> None:
    """Unregister the key of a node at the SuperLink; its supervisor ends the node and starts it no more.

    What the node has sent before stays in the models it went into.

    Raises:
        ConfigError: if nodes have no keys, the node is none or revoked already, or the SuperLink is down.
        DeploymentError: if the SuperLink says no.
    """
    if not site.auth:
        raise ConfigError("this site's nodes have no keys to revoke; bring it up with --tls --auth")
    node_id = read_node_id(site.node(number))
    if not node_id:
        raise ConfigError(f"node {number} has no key that the SuperLink knows; see: fedeff deploy status")
    if is_revoked(site.node(number)):
        raise ConfigError(f"node {number} is revoked already")
    if not processes.found(site.process("superlink")):
        raise ConfigError(
            f"the SuperLink is down; bring it up: fedeff deploy up --site {site.folder} --tls --auth"
        )
    # Marked last: a mark without the SuperLink's consent would say that the key is worthless when it is not.
    with flwr(site) as command:
        command.unregister(node_id)
    mark_revoked(site.node(number))
