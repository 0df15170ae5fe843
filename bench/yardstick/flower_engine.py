"""The yardstick app on Flower's own simulation engine.

python flower_engine.py MODEL CLIENTS COHORT ROUNDS
"""

import os
import pathlib
import sys

APP = pathlib.Path(__file__).resolve().parent / "flower_app"
SETTINGS = dict(zip(("model", "clients", "cohort", "num-server-rounds"), sys.argv[1:], strict=True))
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(APP)} | {
    f"YARDSTICK_{key}": value for key, value in SETTINGS.items()
}
sys.path.insert(0, str(APP))

from flwr.simulation import run_simulation  # noqa: E402
from yardstick.client_app import app as client_app  # noqa: E402
from yardstick.server_app import app as server_app  # noqa: E402

run_simulation(
    server_app,
    client_app,
    num_supernodes=int(SETTINGS["clients"]),
    backend_config={"client_resources": {"num_cpus": 1}},
)
