"""The command `flwr-clientapp`, made to start sooner: a file of that name for the PATH of SuperNodes."""

import shlex
import sys
from pathlib import Path

from fedeff.deployment.private_files import make_private_folder, replace_private

__all__ = ["write_client_command"]

_CALL = "from fedeff.core.flower_deployment import flwr_clientapp; flwr_clientapp()"


def write_client_command(folder: Path) -> Path:
    """Write `flwr-clientapp` into the folder, which goes before others on the PATH; the file.

    Flower starts each message's client by this name. Its own command imports the SuperNode with it, a
    second of a core that the client does not need; this one calls the same function with the same options.
    """
    make_private_folder(folder)
    command = folder / "flwr-clientapp"
    python = shlex.quote(sys.executable)
    replace_private(command, f"#!/bin/sh\nexec {python} -c '{_CALL}' \"$@\"\n".encode())
    command.chmod(0o700)
    return command
