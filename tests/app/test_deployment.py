"""The built-in app on a SuperLink with three SuperNodes: the same bits as on the inline engine."""

from pathlib import Path

import numpy as np
import pytest
import tomli_w
from apps.deployment import deployment
from apps.variants import settings_of

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.layers import decode_record
from fedeff.simulation import run_simulation

CLIENTS = 3
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


@pytest.mark.slow
def test_two_cycles_of_fedlama_come_to_the_same_bits(tmp_path):
    """The first cycle averages every layer in each round, the second one sends less: four rounds."""
    settings = settings_of("fedlama", cohort=CLIENTS, num_server_rounds=4, vectorise="never")
    out = tmp_path / "out.npz"
    app = app_folder(tmp_path / "app", settings, out)
    with deployment(tmp_path, CLIENTS) as running:
        running.run(app, timeout_s=600)
    deployed = dict(np.load(out))
    result = run_simulation(
        server_app(), client_app_of(settings), CLIENTS, engine="inline", run_config=settings.run_config()
    )
    ours = decode_record(result.context.state["model"])
    assert deployed.keys() == ours.keys()
    assert [key for key in ours if ours[key].tobytes() != deployed[key].tobytes()] == []
