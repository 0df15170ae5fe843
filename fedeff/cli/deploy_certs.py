"""`fedeff deploy certs`: certificates and node keys, made, kept or renewed."""

from pathlib import Path
from typing import Annotated

import typer

from fedeff.cli.deploy_site import SITE, SiteFolder
from fedeff.core.errors import ConfigError

__all__ = ["CERTS_EXAMPLES", "certs"]

CERTS_EXAMPLES = (
    ("fedeff deploy certs --clients 3", "for one machine"),
    ("fedeff deploy certs --clients 3 --host fl.example.org --host 192.0.2.7", "for several machines"),
    ("fedeff deploy certs --renew", "the server's certificate anew, under the same authority"),
)


def certs(
    site: SiteFolder = SITE,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME|IP",
            help="By which nodes reach the SuperLink; repeat for more. Loopback always.",
        ),
    ] = None,
    clients: Annotated[int, typer.Option("--clients", "-n", metavar="N", help="Nodes that get keys.")] = 1,
    days: Annotated[int, typer.Option("--days", metavar="D", help="The server's certificate lasts.")] = 365,
    renew: Annotated[bool, typer.Option("--renew", help="Only a new server certificate.")] = False,
    node: Annotated[
        int | None, typer.Option("--node", metavar="N", help="Only a new key for a revoked node.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace all that is there: authority, keys.")
    ] = False,
) -> None:
    """Make an authority, the SuperLink's certificate and node keys; what is there is kept."""
    from fedeff.deployment.certificates import check_hosts, renew_server_certificate

    if sum((renew, node is not None, force)) > 1:
        raise ConfigError("--renew, --node and --force exclude each other; give one of them")
    if clients < 1:
        raise ConfigError(f"--clients {clients} is no number of nodes; give 1 or more")
    folder = site / "certificates"
    given = tuple(hosts or ())
    check_hosts(given)
    if renew:
        renew_server_certificate(folder, given, days)
        print("the SuperLink reads it when it starts: fedeff deploy down, then up")
    elif node is not None:
        _renew_key(site, node)
    else:
        _make(site, given, clients, days, force)
    _show(folder)


def _make(site: Path, hosts: tuple[str, ...], clients: int, days: int, force: bool) -> None:
    from fedeff.deployment import make_certificates, make_node_key, make_state_key, read_certificate

    server = site / "certificates" / "server.crt"
    if force:
        _refuse_if_up(site)
    if force or not server.exists():
        make_certificates(server.parent, hosts, days, force)
    elif lacking := set(hosts) - set(read_certificate(server).hosts):
        raise ConfigError(
            f"{server} does not name {', '.join(sorted(lacking))}; --renew adds what --host names"
        )
    for number in range(clients):
        folder = site / "nodes" / str(number)
        kept = (folder / "node.key").exists() and not force
        if not kept:
            make_node_key(folder, force)
        make_state_key(folder)
        print(f"node {number}: {folder / 'node.key'} {'is kept' if kept else 'is new'}")


def _renew_key(site: Path, number: int) -> None:
    from fedeff.deployment import is_revoked, make_node_key

    folder = site / "nodes" / str(number)
    if not is_revoked(folder):
        raise ConfigError(
            f"the key of node {number} is not revoked; revoke it first: fedeff deploy revoke {number}"
        )
    make_node_key(folder, force=True)
    print(
        f"node {number}: {folder / 'node.key'} is new; it counts from the next start: fedeff deploy down, up"
    )


def _refuse_if_up(site: Path) -> None:
    from fedeff.deployment import Site, is_up

    if (site / "site.toml").exists() and is_up(Site.read(site)):
        raise ConfigError(f"the site {site} is up; end it first: fedeff deploy down --site {site}")


def _show(folder: Path) -> None:
    """Say what is certified, until when, and what to do about that."""
    from rich.console import Console

    from fedeff.cli.running import tell
    from fedeff.deployment import read_certificate

    both = [read_certificate(folder / name) for name in ("ca.crt", "server.crt") if (folder / name).exists()]
    for one in both:
        hosts = f" for {', '.join(one.hosts)}" if one.hosts else ", the authority"
        print(f"{one.path}{hosts}; expires {one.expires_at:%Y-%m-%d}, in {one.days_left():.0f} days")
    tell(Console(stderr=True), (warning for one in both if (warning := one.warning())))
