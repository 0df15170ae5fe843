"""The function that a code is for: a model with trained weights, and the data that it is asked about."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of, new_model, resolved
from fedeff.clients import LocalTraining, evaluate, train_loop
from fedeff.clients.data import Samples, prepared
from fedeff.clients.training import Moments
from fedeff.clients.weights import load_weights
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.data import Split

__all__ = ["Function", "function_of"]

_BATCH, _RATE = 64, 0.05


@dataclass(frozen=True, eq=False)
class Function:
    """A classifier in eval mode, the rows that a code may learn from, and those to measure on."""

    module: nn.Module
    train: Samples
    test: Samples
    accuracy: float  # on the test rows, in [0, 1]
    trained_here: bool


def function_of(
    model: str, dataset: str, weights: str = "", *, epochs: int = 3, rows: int = 20_000, seed: int = 0
) -> Function:
    """A model of the table with the weights of a run, a checkpoint or a safetensors file.

    Without `weights` it is trained here, for so many `epochs` over the `rows` training rows, all clients'
    together.

    Raises:
        ConfigError: for an unknown model or dataset, one without images, or weights that do not fit.
    """
    given: dict[str, bool | int | float | str] = {
        "model": model,
        "dataset": dataset,
        "seed": seed,
        "initial-weights": weights,
    }
    settings, _ = resolved(Settings.from_run_config(given))
    data = dataset_of(settings)
    if len(data.input_shape) != 3:
        raise ConfigError(f"dataset {dataset!r} is {data.task}; codes are for models of images: name another")
    module, known = new_model(settings), _some(data.train, rows)
    if not weights:
        _train(module, known, epochs, seed)
    test = _some(data.test, len(data.test))
    arrays = {key: values.numpy() for key, values in module.state_dict().items()}
    accuracy = evaluate(module, arrays, test).accuracy
    return Function(module.eval(), known, test, accuracy, not weights)


def _some(split: Split, rows: int) -> Samples:
    return prepared(*split.batch(np.arange(0, len(split), max(1, len(split) // rows))), "cpu")


def _train(module: nn.Module, samples: Samples, epochs: int, seed: int) -> None:
    threads, moments = torch.get_num_threads(), Moments()
    torch.set_num_threads(1)
    try:
        for epoch in range(epochs):
            arrays = {key: values.numpy().copy() for key, values in module.state_dict().items()}
            rate = _RATE * (1 + np.cos(np.pi * epoch / epochs)) / 2
            training = LocalTraining(
                batch_size=_BATCH, optimizer="momentum", momentum=0.9, learning_rate=float(rate)
            )
            rng = generator(seed, purpose="function's batches", round=epoch)
            trained = train_loop(module, arrays, samples, training, rng, moments)
            moments = trained.moments or Moments()
            load_weights(module, trained.arrays)
    finally:
        torch.set_num_threads(threads)
