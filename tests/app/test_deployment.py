"""The whole of a deployment on loopback: TLS, node keys, the built-in app, intruders, nothing left behind.

The one test with a real SuperLink that is not slow: whatever needs one may hang its questions here.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from apps.deployment import in_groups, intruder, processes_of
from apps.variants import settings_of

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.layers import decode_record
from fedeff.deployment import Site, make_certificates, make_node_key, node_status, running, status
from fedeff.deployment.processes import marked
from fedeff.deployment.runs import run_on_site
from fedeff.simulation import run_simulation

CLIENTS = 3
WAIT_S = 300
# Flower reads the source: a component must be assigned in its module, an import will not do.
_CLIENT = """
from fedeff.app import client

app = client.app
"""
_SERVER = """
import numpy as np
from flwr.serverapp import ServerApp

from fedeff.app.server import server_app
from fedeff.core.layers import decode_record
from fedeff.strategies.cohorts import connected_nodes

app = ServerApp()


@app.main()
def main(grid, context):
    connected_nodes(grid, {clients}, wait_s=120)
    server_app()(grid=grid, context=context)
    np.savez({out!r}, **decode_record(context.state["model"]))
"""


def app_folder(folder: Path, settings: Settings, out: Path) -> Path:
    """A Flower app around the built-in components, which leaves its final model in `out`."""
    package = folder / "deployed"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "client.py").write_text(_CLIENT)
    (package / "server.py").write_text(_SERVER.format(clients=CLIENTS, out=str(out)))
    project = {
        "project": {"name": "deployed", "version": "1.0.0", "dependencies": []},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fedeff",
                    "components": {"serverapp": "deployed.server:app", "clientapp": "deployed.client:app"},
                    "config": settings.run_config(),
                }
            }
        },
    }
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project))
    return folder


def check_that_intruders_are_kept_out(site: Site, folder: Path) -> None:
    """Three SuperNodes end, each told why: a key of its own, none, the certificate of another authority."""
    make_node_key(folder / "unregistered")
    make_certificates(folder / "other-authority")
    ours, key = ["--root-certificates", str(site.certificate("ca.crt"))], "--auth-supernode-private-key"
    theirs = ["--root-certificates", str(folder / "other-authority" / "ca.crt")]
    intruders = {
        "unregistered-key": ([*ours, key, str(folder / "unregistered" / "node.key")], "Failed to activate"),
        "no-key": (ours, "must be registered"),
        "other-authority": ([*theirs, key, str(site.node(0) / "node.key")], "CERTIFICATE_VERIFY_FAILED"),
    }
    with ExitStack() as started:
        tried = {
            n: started.enter_context(intruder(site, n, *options)) for n, (options, _) in intruders.items()
        }
        for name, (_, told) in intruders.items():
            assert tried[name].wait(WAIT_S) != 0
            assert told in site.log(name).read_text()


def test_a_deployment_from_certificates_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cycles of FedLAMA: the first averages every layer in each round, the second sends less."""
    monkeypatch.setenv("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.05")
    settings = settings_of(
        "fedlama", cohort=CLIENTS, num_server_rounds=4, vectorise="never", wait_for_clients_s=300.0
    )
    out = tmp_path / "out.npz"
    app = app_folder(tmp_path / "app", settings, out)
    with running(tmp_path / "site", CLIENTS, tls=True, auth=True) as site:
        assert status(site).up
        check_that_intruders_are_kept_out(site, tmp_path)
        run_on_site(site, app, timeout_s=600)
        assert node_status(site) == {f"node-{number}": "online" for number in range(CLIENTS)}
        here = processes_of(site)
        groups = {os.getpgid(process.pid) for process in here}
    assert [process for process in here if process.is_running()] == []
    assert in_groups(groups) == []
    assert marked(site.token) == []
    assert different_layers(dict(np.load(out)), settings) == []


def different_layers(deployed: dict[str, np.ndarray], settings: Settings) -> list[str]:
    """Layers of which a bit differs from what the inline engine comes to."""
    result = run_simulation(
        server_app(), client_app_of(settings), CLIENTS, engine="inline", run_config=settings.run_config()
    )
    ours = decode_record(result.context.state["model"])
    assert deployed.keys() == ours.keys()
    return [key for key in ours if ours[key].tobytes() != deployed[key].tobytes()]
