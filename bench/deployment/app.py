"""Flower app folders for the bench: two components of one line each, around what this package holds."""

from collections.abc import Mapping
from pathlib import Path

import tomli_w

__all__ = ["built_in_app", "no_op_app"]

Config = Mapping[str, bool | int | float | str]

# Flower reads the source: a component must be assigned in its module, an import will not do.
_NO_OP_CLIENT = "from bench.deployment import clients\n\napp = clients.no_op()\n"
_CLIENT = """from bench.deployment import clients
from fedeff.app import client

app = clients.timed(client.app)
"""
_SERVER = """from flwr.serverapp import ServerApp

from bench.deployment import servers

app = ServerApp()


@app.main()
def main(grid, context):
    servers.{call}
"""


def no_op_app(folder: Path, *, clients: int, rounds: int, flowers_own: bool, out: Path) -> Path:
    """Clients that do nothing."""
    call = f"no_ops(grid, {clients}, {rounds}, {flowers_own}, {str(out)!r})"
    return _write(folder, _SERVER.format(call=call), _NO_OP_CLIENT, {})


def built_in_app(folder: Path, config: Config, *, clients: int, flowers_own: bool, out: Path) -> Path:
    """The built-in app with a configuration."""
    call = f"built_in(grid, context, {clients}, {flowers_own}, {str(out)!r})"
    return _write(folder, _SERVER.format(call=call), _CLIENT, config)


def _write(folder: Path, server: str, client: str, config: Config) -> Path:
    package = folder / "rounds"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "server.py").write_text(server)
    (package / "client.py").write_text(client)
    components = {"serverapp": "rounds.server:app", "clientapp": "rounds.client:app"}
    app = {"publisher": "fedeff", "components": components, "config": dict(config)}
    project = {"name": "rounds", "version": "1.0.0", "dependencies": list[str]()}
    (folder / "pyproject.toml").write_text(
        tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    )
    return folder
