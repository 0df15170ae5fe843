"""Views of the built-in app's clients, from the production path, of fresh and of trained models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.audit.tried import Shown
from fedeff.app import Settings
from fedeff.app.run import Plan, simulate
from fedeff.app.runtime import Runtime
from fedeff.audit.capturing.capture import capture

__all__ = ["CLIENTS", "captured", "trained_weights"]

CLIENTS = 20  # among whom rows are dealt out; one of them, drawn by the seed, is the victim


def captured(settings: Settings, seed: int, *, informed: bool = False) -> Shown:
    """What the server sees of one client in the first round, and that client's rows."""
    (one,) = capture(replace(settings, seed=seed, cohort=1), CLIENTS, informed=informed)
    return Shown(one.view, one.truth)


@contextmanager
def trained_weights(settings: Settings, rounds: int, seed: int) -> Iterator[Settings]:
    """The settings, beginning with the weights that all clients came to by whole epochs in so many rounds."""
    own = replace(
        settings,
        seed=seed,
        cohort=CLIENTS,
        local_steps=0,
        local_epochs=1,
        batch_size=10,
        num_server_rounds=rounds,
        evaluate_every=rounds,
        codec="",
    )
    with TemporaryDirectory(prefix="fedeff-bench-") as folder:
        run = Path(folder) / "run"
        simulate(Plan(own, Runtime(clients=CLIENTS, engine="inline")).checked()[0], run)
        yield replace(settings, initial_weights=str(run))
