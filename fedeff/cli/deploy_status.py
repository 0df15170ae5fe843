"""`fedeff deploy status`: what runs, which nodes are online, what expires when."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from fedeff.cli.deploy_site import SITE, SiteFolder

if TYPE_CHECKING:
    from rich.table import Table

    from fedeff.deployment import SiteStatus

__all__ = ["STATUS_EXAMPLES", "status"]

STATUS_EXAMPLES = (
    ("fedeff deploy status", "exit status 1 unless everything is up"),
    ("fedeff deploy status --json", "for other programs"),
)


def status(
    site: SiteFolder = SITE,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say how a site stands: processes, nodes, certificates; exit status 1 unless everything is up."""
    from rich.console import Console

    from fedeff.cli.running import tell
    from fedeff.deployment import Site, node_status
    from fedeff.deployment import status as status_of

    now = status_of(Site.read(site))
    nodes = node_status(now.site)
    if as_json:
        print(json.dumps(now.as_json(nodes), indent=2))
    else:
        secured = "TLS and node keys" if now.site.auth else "TLS" if now.site.tls else "no TLS"
        print(f"{now.site.folder} is {now.site.phase}; SuperLink {now.site.address}, {secured}")
        Console().print(_table(now, nodes))
        for one in now.certificates:
            print(f"{one.path.name} expires {one.expires_at:%Y-%m-%d}, in {one.days_left():.0f} days")
        tell(Console(stderr=True), now.warnings)
    if not now.up:
        raise typer.Exit(1)


def _table(now: "SiteStatus", nodes: Mapping[str, str]) -> "Table":
    from rich.table import Table

    table = Table(box=None)
    for name in ("process", "state", "pid", "port", "since (UTC)", "restarts", "at the SuperLink"):
        table.add_column(name)
    for one in now.processes:
        state = "up" if one.up else "given up" if one.given_up else "down"
        pid, port = (str(number) if one.up and number else "" for number in (one.pid, one.port))
        since = one.since[5:19].replace("T", " ")  # the year goes without saying
        table.add_row(one.name, state, pid, port, since, str(one.restarts), nodes.get(one.name, ""))
    for node, said in nodes.items():
        if node not in {one.name for one in now.processes}:
            table.add_row(node, "", "", "", "", "", said)
    return table
