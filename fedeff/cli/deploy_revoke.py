"""`fedeff deploy revoke`: a node whose key is taken from it."""

from typing import Annotated

import typer

from fedeff.cli.deploy_site import SITE, SiteFolder

__all__ = ["REVOKE_EXAMPLES", "revoke"]

REVOKE_EXAMPLES = (("fedeff deploy revoke 2", "node 2 is out, for good under this key"),)


def revoke(
    node: Annotated[int, typer.Argument(help="The node's number.", metavar="NODE")],
    site: SiteFolder = SITE,
) -> None:
    """Unregister a node's key at the SuperLink; its supervisor ends the node."""
    from fedeff.deployment import Site
    from fedeff.deployment import revoke as revoke_key

    revoke_key(Site.read(site), node)
    print(f"node {node} is out; a new key lets it in again: fedeff deploy certs --node {node}")
