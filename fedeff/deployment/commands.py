"""The command lines of a site's processes, and the environment that they run in."""

import os
import shutil
import sys
from pathlib import Path

import tomli_w

from fedeff.core.errors import DeploymentError
from fedeff.deployment.private_files import make_private_folder, replace_private
from fedeff.deployment.processes import MARK
from fedeff.deployment.site import CONNECTION, LOOPBACK, Site

__all__ = ["environment", "script", "superlink_command", "supernode_command", "write_connection"]

_POLL_S = "0.2"  # how often Flower's SuperExec looks for work; every second unless it is told


def superlink_command(site: Site) -> list[str]:
    """`flower-superlink` on the site's port, with its certificate and its database.

    Apps' dependencies are not installed when they run: what runs is what this environment holds.
    """
    command = [script("flower-superlink"), "--host", LOOPBACK, "--port", str(site.port)]
    command += ["--database", str(site.database), "--disable-runtime-dependency-installation"]
    if not site.tls:
        return [*command, "--insecure"]
    for option, name in (("ca-certfile", "ca.crt"), ("certfile", "server.crt"), ("keyfile", "server.key")):
        command += [f"--ssl-{option}", str(site.certificate(name))]
    return [*command, "--enable-supernode-auth"] if site.auth else command


def supernode_command(site: Site, number: int, port: int) -> list[str]:
    """`flower-supernode` for partition `number`, its own API on `port`."""
    from fedeff.deployment.prompt_clients import prompt_supernode  # loads much of flwr

    folder = site.node(number)
    numbers = f"partition-id={number} num-partitions={site.clients}"
    kept = f'state-dir="{folder / "state"}" state-key="{folder / "state.key"}"'
    command = [
        script("flower-supernode"),
        "--superlink",
        site.address,
        "--host",
        LOOPBACK,
        "--port",
        str(port),
    ]
    command += ["--node-config", f"{numbers} {kept}"]
    command += ["--root-certificates", str(site.certificate("ca.crt"))] if site.tls else ["--insecure"]
    command += ["--auth-supernode-private-key", str(folder / "node.key")] if site.auth else []
    return prompt_supernode(command) if site.prompt else command


def environment(site: Site) -> dict[str, str]:
    """What the site's processes, and commands that talk to its SuperLink, find in their environment."""
    own = {
        "FLWR_HOME": str(site.flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        # Flower starts its helpers by name; the site may have its own `flwr-clientapp`.
        "PATH": os.pathsep.join(
            (str(site.commands), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
        ),
        MARK: site.token,
    }
    return {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_S} | os.environ | own


def write_connection(site: Site) -> None:
    """Tell `flwr` where the site's SuperLink is, in the site's own `FLWR_HOME`."""
    to = {"root-certificates": str(site.certificate("ca.crt"))} if site.tls else {"insecure": True}
    connection = {"address": site.address, **to}
    make_private_folder(site.flower_home)
    config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
    replace_private(site.flower_home / "config.toml", tomli_w.dumps(config).encode())


def script(name: str) -> str:
    """The path of a command: beside this Python, else on the PATH.

    Raises:
        DeploymentError: if it is in neither place.
    """
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise DeploymentError(
            f"{name} is neither in {beside.parent} nor on the PATH; activate the environment that has flwr"
        )
    return path
