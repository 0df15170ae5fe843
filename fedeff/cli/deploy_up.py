"""`fedeff deploy up` and `down`: a site's processes started and ended."""

from typing import Annotated

import typer

from fedeff.cli.deploy_site import SITE, SiteFolder

__all__ = ["DOWN_EXAMPLES", "UP_EXAMPLES", "down", "up"]

UP_EXAMPLES = (
    ("fedeff deploy up --clients 3", "on this machine, without TLS"),
    ("fedeff deploy up --clients 3 --tls --auth", "with certificates and node keys"),
)
DOWN_EXAMPLES = (("fedeff deploy down", "end the SuperLink, its SuperNodes, and all they started"),)


def up(
    clients: Annotated[int, typer.Option("--clients", "-n", metavar="N", help="SuperNodes to start.")],
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt, with the site's certificates.")] = False,
    auth: Annotated[bool, typer.Option("--auth", help="Let in nodes with registered keys only.")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="SuperNodes that answer sooner: see the docs.")
    ] = False,
    site: SiteFolder = SITE,
    port: Annotated[
        int, typer.Option("--port", metavar="P", help="Of the SuperLink. \\[default: a free one]")
    ] = 0,
    metrics_port: Annotated[
        int, typer.Option("--metrics-port", metavar="P", help="Prometheus endpoint. \\[default: none]")
    ] = 0,
) -> None:
    """Start a SuperLink and SuperNodes on this machine; ends when all nodes are online."""
    from rich.console import Console

    from fedeff.cli.running import tell
    from fedeff.deployment import bring_up, status

    here = bring_up(site, clients, tls=tls, auth=auth, prompt=prompt, port=port, metrics_port=metrics_port)
    nodes = "SuperNode" if clients == 1 else "SuperNodes"
    print(f"up: SuperLink {here.address}, {clients} {nodes}; logs in {here.log('superlink').parent}")
    if metrics_port:
        print(f"metrics: http://127.0.0.1:{metrics_port}/metrics")
    print(f"for flwr: FLWR_HOME={here.flower_home}")
    tell(Console(stderr=True), status(here).warnings)


def down(site: SiteFolder = SITE) -> None:
    """End every process of a site; it is no error if there is none."""
    from fedeff.deployment import Site, take_down

    take_down(Site.read(site))
    print(f"down: no process of {site} is left")
