"""`fedeff audit`: what can be rebuilt from what clients send."""

import typer

from fedeff.cli.audit_leak import LEAK_EXAMPLES, leak
from fedeff.cli.audit_matrix import MATRIX_EXAMPLES, matrix
from fedeff.cli.teaching import teaching

__all__ = ["audit"]

audit = typer.Typer(help="What a server could rebuild from what clients send.", no_args_is_help=True)
audit.command("leak", cls=teaching(*LEAK_EXAMPLES))(leak)
audit.command("matrix", cls=teaching(*MATRIX_EXAMPLES))(matrix)
