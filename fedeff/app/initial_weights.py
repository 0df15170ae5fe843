"""Weights to begin with: those that another run came to, or of a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from fedeff.app.checkpoints import read_standing
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError
from fedeff.core.layers import NDArray, decode_record
from fedeff.models import merge

__all__ = ["load_initial_weights"]

Arrays = dict[str, NDArray]


def load_initial_weights(model: nn.Module, place: str, build: Callable[[Settings], nn.Module]) -> None:
    """Copy into a model the weights of a run's newest checkpoint, of a checkpoint, or of a safetensors file.

    A run of low rank gives the whole weights that its factors, or its adapters and what they adapt, make;
    `build` makes its model from its settings.

    Raises:
        ConfigError: if there are no such weights, or they are not this model's.
    """
    path = Path(place)
    arrays = _of_run(RunFolder(path), build) if is_run(path) else _of_file(path)
    state = model.state_dict()
    unfit = [key for key in state if key not in arrays or arrays[key].shape != tuple(state[key].shape)]
    unfit += [key for key in arrays if key not in state]
    if unfit:
        raise ConfigError(
            f"initial-weights = {place!r} are another model's: {', '.join(unfit[:4])} "
            f"{'do' if len(unfit) > 1 else 'does'} not fit; name a run of the same model and data"
        )
    model.load_state_dict(_tensors(arrays))


def _of_run(folder: RunFolder, build: Callable[[Settings], nn.Module]) -> Arrays:
    for path in sorted(folder.checkpoints.glob("round-*.safetensors"), reverse=True):
        if (standing := read_standing(path)) is not None:
            arrays = decode_record(standing.model)
            break
    else:
        raise ConfigError(f"initial-weights = {str(folder.path)!r} is a run without a readable checkpoint")
    settings = Settings.from_run_config(folder.config().get("config", {}))
    if settings.low_rank == "none":
        return arrays
    model = build(settings)
    model.load_state_dict(_tensors(arrays))
    return {key: values.numpy() for key, values in merge(model).state_dict().items()}


def _of_file(path: Path) -> Arrays:
    if (standing := read_standing(path)) is not None:
        return decode_record(standing.model)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"initial-weights = {str(path)!r} cannot be read ({error}); name the folder of a run, "
            "a checkpoint in it, or a safetensors file of the model's arrays"
        ) from error


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(values)) for key, values in arrays.items()}
