"""`fedeff deploy` from the outside, but for what needs a SuperLink: that is tests/app/test_deployment.py."""

import json
import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedeff.cli.main import main
from fedeff.deployment import ProcessRecord, Site, launching, processes
from fedeff.deployment.certificates import renew_server_certificate


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def deploy(capfd):
    """`deploy("certs", ...)`: exit status, text on stdout, text on stderr."""

    def run(*arguments):
        capfd.readouterr()
        status = main(["deploy", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def here():
    """A site whose supervisor is this process."""
    mine = ProcessRecord("supervisor", os.getpid(), processes.started_at_s(os.getpid()))
    site = Site(Path("deployment"), phase="up", port=1, processes=(mine, ProcessRecord("node-0", 0, 0.0)))
    site.write()
    return site


def test_certs_are_made_kept_and_renewed(deploy):
    status, out, err = deploy("certs", "--clients", 2, "--host", "fl.example.org")
    assert (status, err) == (0, "")
    assert out.count("is new") == 2
    assert "server.crt for localhost, fl.example.org, 127.0.0.1, ::1; expires " in out
    assert "in 365 days" in out
    before = {path: path.read_bytes() for path in Path("deployment").rglob("*.*") if path.is_file()}
    status, out, _ = deploy("certs", "--clients", 3)
    assert (status, out.count("is kept"), out.count("is new")) == (0, 2, 1)
    assert {path: path.read_bytes() for path in before} == before
    status, out, _ = deploy("certs", "--renew", "--host", "192.0.2.1", "--days", 20)
    assert "192.0.2.1; expires " in out
    assert {str(p) for p in before if p.read_bytes() != before[p]} == {
        "deployment/certificates/server.key",
        "deployment/certificates/server.crt",
    }
    assert "expires in 20 days" in deploy("certs")[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["certs", "--host", "https://fl.example.org"], "neither a name nor an address"),
        (["certs", "--renew", "--force"], "exclude each other"),
        (["certs", "--renew"], "ca.key is not there"),
        (["certs", "--days", "0"], "--days 0"),
        (["certs", "--node", "1"], "is not revoked"),
        (["up"], "Missing option '--clients'"),
        (["up", "--clients", "0"], "--clients 0"),
        (["up", "--clients", "2", "--auth"], "--auth needs --tls"),
        (["up", "--clients", "2", "--port", "70000"], "--port 70000 is no port"),
        (["status"], "is no site; make one with: fedeff deploy up"),
        (["down", "--site", "none"], "none is no site"),
        (["revoke", "0"], "is no site"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(deploy, arguments, told):
    status, out, err = deploy(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_a_host_that_the_certificate_lacks_is_not_passed_over(deploy):
    deploy("certs")
    status, _, err = deploy("certs", "--host", "fl.example.org")
    assert status == 2
    assert "does not name fl.example.org; --renew adds" in err


def test_an_expired_certificate_keeps_the_site_down(deploy):
    deploy("certs")
    renew_server_certificate(
        Path("deployment/certificates"), days=1, now=datetime.now(UTC) - timedelta(days=2)
    )
    status, _, err = deploy("up", "--clients", 1, "--tls")
    assert status == 2
    assert "has expired" in err
    assert "renew it with: fedeff deploy certs --renew" in err


def test_a_taken_port_is_named(deploy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = deploy("up", "--clients", 1, "--port", port)
    assert status == 2
    assert f"port {port} cannot be used: Address already in use" in err


def test_a_missing_command_is_named(deploy, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    status, _, err = deploy("up", "--clients", 1)
    assert status == 1
    assert "flower-superlink is neither in /nowhere nor on the PATH" in err


def test_without_the_extra_the_endpoint_is_refused(deploy, monkeypatch):
    monkeypatch.setattr("fedeff.deployment.metrics.find_spec", lambda name: None)
    status, _, err = deploy("up", "--clients", 1, "--metrics-port", 19000)
    assert status == 2
    assert 'pip install "fedeff[metrics]"' in err


def test_status_tells_what_is_down_and_ends_with_1(deploy, here):
    status, out, err = deploy("status", "--json")
    told = json.loads(out)
    assert (status, told["up"], told["nodes"]) == (1, False, {})
    assert {one["name"]: one["up"] for one in told["processes"]} == {"supervisor": True, "node-0": False}
    assert "node-0 is down" in told["warnings"]
    status, out, err = deploy("status")
    assert status == 1
    assert "node-0 is down" in err


def test_what_is_up_is_neither_started_twice_nor_given_new_keys(deploy, here):
    for arguments in (["up", "--clients", "1"], ["certs", "--force"]):
        status, _, err = deploy(*arguments)
        assert status == 2
        assert "fedeff deploy down" in err


def test_revoking_needs_keys(deploy, here):
    status, _, err = deploy("revoke", 0)
    assert status == 2
    assert "have no keys to revoke" in err
    here.but(tls=True, auth=True).write()
    assert "node 0 has no key that the SuperLink knows" in deploy("revoke", 0)[2]


def test_down_without_a_process_is_no_error(deploy):
    Site(Path("deployment"), phase="failed", token="0").write()
    assert deploy("down")[0] == 0
    assert Site.read(Path("deployment")).phase == "down"
    assert not launching.is_up(Site.read(Path("deployment")))
