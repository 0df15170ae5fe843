"""A site's file, its command lines and its keys."""

import shlex
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.common.config import parse_config_args
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError, DeploymentError
from fedeff.deployment import ProcessRecord, Site, is_revoked, make_node_key, make_state_key
from fedeff.deployment.commands import environment, script, superlink_command, supernode_command
from fedeff.deployment.node_keys import mark_revoked, read_node_id, write_node_id
from fedeff.deployment.private_files import create_private, replace_private

PROCESSES = st.builds(
    ProcessRecord,
    st.from_regex(r"node-[0-9]{1,3}", fullmatch=True),
    st.integers(0, 2**22),
    st.floats(0, 2e9),
    st.integers(0, 65535),
    st.integers(0, 9),
    st.booleans(),
)
SITES = st.builds(
    Site,
    st.just(Path("site")),
    clients=st.integers(1, 50),
    tls=st.just(True),
    auth=st.booleans(),
    prompt=st.booleans(),
    port=st.integers(0, 65535),
    metrics_port=st.integers(0, 65535),
    phase=st.sampled_from(["down", "starting", "up", "failed"]),
    failure=st.text(),
    token=st.text("0123456789abcdef"),
    processes=st.lists(PROCESSES).map(tuple),
)


@settings(max_examples=25)
@given(site=SITES)
def test_what_is_written_is_read(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    here = site.but(folder=tmp_path_factory.mktemp("site"))
    here.write()
    assert Site.read(here.folder) == here
    assert stat.S_IMODE(here.file.stat().st_mode) == 0o600
    assert [path.name for path in here.folder.iterdir()] == ["site.toml"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"clients": 0}, "--clients 0"),
        ({"port": 65536}, "--port 65536"),
        ({"metrics_port": -1}, "--metrics-port -1"),
        ({"auth": True}, "--auth needs --tls"),
        ({"phase": "sideways"}, "'sideways', not one of down, starting, up, failed"),
        ({"folder": Path("a'b")}, "holds a quote"),
    ],
)
def test_what_no_site_can_be_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Site(**{"folder": Path("site"), **wrong})


@pytest.mark.parametrize("content", ["clients = ", "processes = 3", "[[processes]]\nname = 'x'\nlegs = 4\n"])
def test_a_broken_file_is_said_to_be_broken(content: str, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"site\.toml"):
        Site.read(tmp_path)


def test_a_folder_without_a_file_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no site; make one with: fedeff deploy up"):
        Site.read(tmp_path)


def test_a_node_finds_its_partition_its_state_and_the_key_of_it(tmp_path: Path) -> None:
    """As Flower reads the option, in a folder with a blank in its name."""
    site = Site(tmp_path / "a site", clients=3, tls=True, auth=True, port=9000)
    command = supernode_command(site, 2, 9002)
    config = parse_config_args([command[command.index("--node-config") + 1]])
    assert config == {
        "partition-id": 2,
        "num-partitions": 3,
        "state-dir": str(tmp_path / "a site/nodes/2/state"),
        "state-key": str(tmp_path / "a site/nodes/2/state.key"),
    }
    assert command[command.index("--auth-supernode-private-key") + 1].endswith("nodes/2/node.key")
    assert "--insecure" not in command


def test_without_tls_nothing_names_a_certificate_or_a_key(tmp_path: Path) -> None:
    site = Site(tmp_path, port=9000)
    said = shlex.join([*superlink_command(site), *supernode_command(site, 0, 9001)])
    assert said.count("--insecure") == 2
    assert not any(word in said for word in ("ssl", "auth", "root-certificates"))


def test_prompt_nodes_get_the_same_options(tmp_path: Path) -> None:
    site = Site(tmp_path, port=9000)
    prompt = supernode_command(site.but(prompt=True), 0, 9001)
    assert prompt[-len(supernode_command(site, 0, 9001)) + 1 :] == supernode_command(site, 0, 9001)[1:]
    assert prompt[1] == "-m"


def test_a_command_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeploymentError, match=r"flower-none is neither in .* nor on the PATH"):
        script("flower-none")


def test_the_pace_of_flowers_polling_is_the_users_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
    monkeypatch.delenv(name, raising=False)
    assert environment(Site(tmp_path))[name] == "0.2"
    monkeypatch.setenv(name, "7")
    assert environment(Site(tmp_path))[name] == "7"


def test_node_keys_are_as_flower_wants_them_and_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "nodes" / "0"
    make_node_key(folder)
    make_state_key(folder)
    private = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    public = load_ssh_public_key((folder / "node.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    assert private.public_key() == public
    state_key = (folder / "state.key").read_text()
    assert len(bytes.fromhex(state_key)) == 32
    make_state_key(folder)
    assert (folder / "state.key").read_text() == state_key
    with pytest.raises(ConfigError, match=r"node\.key is there already and stays"):
        make_node_key(folder)
    assert load_ssh_public_key((folder / "node.pub").read_bytes()) == public
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert modes[folder / "state"] == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_new_key_is_neither_revoked_nor_registered(tmp_path: Path) -> None:
    make_node_key(tmp_path)
    write_node_id(tmp_path, "123")
    mark_revoked(tmp_path)
    assert (is_revoked(tmp_path), read_node_id(tmp_path)) == (True, "123")
    make_node_key(tmp_path, force=True)
    assert (is_revoked(tmp_path), read_node_id(tmp_path)) == (False, "")


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    create_private(tmp_path / "a" / "b" / "file", b"1")
    for path, mode in {"a": 0o700, "a/b": 0o700, "a/b/file": 0o600}.items():
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode
    with pytest.raises(ConfigError, match="--force replaces it"):
        create_private(tmp_path / "a" / "b" / "file", b"2")
    replace_private(tmp_path / "a" / "b" / "file", b"3")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"3"
