"""`fedeff deploy`: a SuperLink and its SuperNodes, from certificates to the end."""

import typer

from fedeff.cli.deploy_certs import CERTS_EXAMPLES, certs
from fedeff.cli.deploy_revoke import REVOKE_EXAMPLES, revoke
from fedeff.cli.deploy_run import RUN_EXAMPLES, run
from fedeff.cli.deploy_status import STATUS_EXAMPLES, status
from fedeff.cli.deploy_up import DOWN_EXAMPLES, UP_EXAMPLES, down, up
from fedeff.cli.teaching import teaching

__all__ = ["deploy"]

deploy = typer.Typer(
    help="A SuperLink with SuperNodes: certificates, up, run, status, down, revoke.", no_args_is_help=True
)
deploy.command("certs", cls=teaching(*CERTS_EXAMPLES))(certs)
deploy.command("up", cls=teaching(*UP_EXAMPLES))(up)
deploy.command("run", cls=teaching(*RUN_EXAMPLES, settings=True))(run)
deploy.command("status", cls=teaching(*STATUS_EXAMPLES))(status)
deploy.command("down", cls=teaching(*DOWN_EXAMPLES))(down)
deploy.command("revoke", cls=teaching(*REVOKE_EXAMPLES))(revoke)
