"""What codecs are measured on: updates of clients in a real run, and normal values of the same shapes."""

from typing import Any

import numpy as np

from fedeff.app import RunFolder, Settings
from fedeff.app.checkpoints import latest_standing
from fedeff.app.client import training_of
from fedeff.app.workload import dataset_of, new_model, resolved, shares_of
from fedeff.clients.data import prepared
from fedeff.clients.loop import train_loop
from fedeff.core.layers import decode_record
from fedeff.core.rng import generator

__all__ = ["Arrays", "normal_like", "updates"]

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def updates(folder: RunFolder, clients: int) -> list[Arrays]:
    """What the first clients' weights change by in one round from the model of a finished run."""
    tables = folder.config()
    settings, _ = resolved(Settings.from_run_config(tables["config"]))
    standing = latest_standing(folder.checkpoints, settings.num_server_rounds)
    if standing is None:
        raise FileNotFoundError(f"{folder.checkpoints} holds no checkpoint")
    held, module = decode_record(standing.model), new_model(settings)
    dataset, shares = dataset_of(settings), shares_of(settings, tables["simulation"]["clients"])
    found = []
    for client in range(clients):
        samples = prepared(*dataset.train.batch(shares.train[client]), "cpu")
        rng = generator(settings.seed, purpose="bench", client=client)
        trained = train_loop(module, held, samples, training_of(settings), rng)
        found.append({key: values - held[key] for key, values in trained.arrays.items()})
    return found


def normal_like(arrays: Arrays, seed: int) -> Arrays:
    """Normal values in the same shapes."""
    rng, found = generator(seed, purpose="bench"), {}
    for key, values in arrays.items():
        shape: tuple[int, ...] = values.shape
        found[key] = rng.standard_normal(shape, np.float32)
    return found
