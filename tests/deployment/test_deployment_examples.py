"""Unit files, compose file and the commands of the page: Flower takes their options, and they fit."""

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from flwr.common.config import parse_config_args
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "deployment"
PAGE = (ROOT / "docs" / "deployment.md").read_text()
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "flower-superlink": _parse_args_run_superlink,
    "flower-supernode": _parse_args_run_supernode,
}


def of_units() -> list[list[str]]:
    """The command of each systemd unit, for node 1."""
    commands = []
    for unit in sorted(EXAMPLES.glob("*.service")):
        text = unit.read_text().replace("\\\n", " ").replace("%i", "1")
        (line,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
        commands.append(shlex.split(line))
    return commands


def of_compose() -> list[list[str]]:
    """The command of each service."""
    return [one["command"] for one in compose()["services"].values()]


def of_page() -> list[list[str]]:
    """The commands that the page shows, their lines joined."""
    shown = PAGE.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ *\$ (flower-\w+ .*)$", shown, re.M)]


def compose() -> dict:
    return yaml.safe_load((EXAMPLES / "compose.yaml").read_text())


def parsed(command: list[str]) -> argparse.Namespace:
    return PARSERS[Path(command[0]).name]().parse_args(command[1:])


@pytest.mark.parametrize("commands", [of_units, of_compose, of_page])
def test_flower_takes_every_option(commands: Callable[[], list[list[str]]]) -> None:
    taken = [parsed(command) for command in commands()]
    links = [one for one in taken if hasattr(one, "enable_supernode_auth")]
    nodes = [one for one in taken if one not in links]
    assert links
    assert nodes
    for link in links:
        assert link.enable_supernode_auth
        assert not link.insecure
        assert link.ssl_ca_certfile
        assert link.ssl_certfile
        assert link.ssl_keyfile
    for node in nodes:
        config = parse_config_args([node.node_config])
        assert config.keys() == {"partition-id", "num-partitions", "state-dir", "state-key"}
        assert config["num-partitions"] == 3
        assert not node.insecure
        assert node.root_certificates
        assert node.auth_supernode_private_key


def test_containers_are_given_what_their_commands_read() -> None:
    for service in compose()["services"].values():
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        read = re.findall(r"(/(?:certificates|node|state)[\w./]*)", " ".join(service["command"]))
        assert [path for path in read if mounted.isdisjoint({path, *map(str, Path(path).parents)})] == []


def test_nodes_in_containers_are_partitions_of_their_own() -> None:
    names = [name for name in compose()["services"] if name != "superlink"]
    numbers = [parse_config_args([parsed(compose()["services"][n]["command"]).node_config]) for n in names]
    assert [f"node-{one['partition-id']}" for one in numbers] == names
    assert {one["num-partitions"] for one in numbers} == {len(names)}


def test_only_supernodes_are_let_through() -> None:
    text = (EXAMPLES / "nginx.conf").read_text()
    assert re.findall(r"location (\S+) \{\s+(\w+)", text) == [("/v1/fleet/", "proxy_pass"), ("/", "return")]


def test_the_page_names_every_file() -> None:
    assert [path.name for path in EXAMPLES.iterdir() if f"examples/deployment/{path.name}" not in PAGE] == []
