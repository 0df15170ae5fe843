"""Fitted codes as files: safetensors with one metadata entry; nothing in them is ever executed."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor, nn

from fedeff.codes.learned.frozen import function_digest
from fedeff.codes.learned.network import CodeNetwork, Shapes
from fedeff.codes.learned.quality import PatternQuality
from fedeff.codes.learned.recipes import RECIPES, Recipe
from fedeff.codes.learned.trained import FitRecord, TrainedCode
from fedeff.codes.learned.training import seeded
from fedeff.core.errors import CodeError, ConfigError
from fedeff.core.rng import generator

__all__ = ["load", "save"]

_FORMAT = 1
_ENTRY = "fedeff-code"  # one entry only: safetensors writes several in an order that differs from run to run
_NETWORK = "network/"
_MASKS, _SHARES = "quality/masks", "quality/shares"


def save(code: TrainedCode, path: Path | str) -> None:
    """Writes a code to a file, whole or not at all. Equal codes give equal bytes.

    Raises:
        CodeError: if the file cannot be written.
    """
    about = {
        "format": _FORMAT,
        "recipe": {"kind": type(code.recipe).__name__, **asdict(code.recipe)},  # type: ignore[call-overload]
        "input": code.shapes.input,
        "output": code.shapes.output,
        "record": asdict(code.record),
    }
    tensors = {f"{_NETWORK}{name}": values.contiguous() for name, values in code.network.state_dict().items()}
    tensors[_MASKS] = torch.from_numpy(code.pattern_quality.masks.copy())
    tensors[_SHARES] = torch.from_numpy(code.pattern_quality.shares.copy())
    _write(Path(path), encode(tensors, {_ENTRY: json.dumps(about, sort_keys=True)}))


def load(path: Path | str, function: nn.Module | None = None) -> TrainedCode:
    """The code that a file holds, equal bit for bit to the one that was saved.

    `function` is needed where parity models have its architecture, which a file does not hold; given, it
    must be the one that the code was fitted to.

    Raises:
        CodeError: if there is no such file, it holds something else or is damaged, or the function is
            another one, or missing where it is needed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if function is not None and function_digest(function) != about["record"]["function"]:
            raise CodeError(
                f"{path} was fitted to another function; give that one, or fit a code to this one"
            )
        return _decode(about, tensors, function)
    except OSError as error:
        raise CodeError(
            f"cannot read {path}: {error.strerror or error}; give a file that `save` wrote"
        ) from error
    except (
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ConfigError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CodeError(
            f"{path} is not a learned code, or damaged ({type(error).__name__}: {reason}); fit and save again"
        ) from error


def _decode(about: dict[str, Any], tensors: dict[str, Tensor], function: nn.Module | None) -> TrainedCode:
    if about["format"] != _FORMAT:
        raise ValueError(f"format {about['format']}, expected {_FORMAT}")
    recipe = _recipe(about["recipe"])
    shapes = Shapes(tuple(about["input"]), tuple(about["output"]))
    quality = PatternQuality(tensors.pop(_MASKS).numpy(), tensors.pop(_SHARES).numpy())
    _check_quality(quality, recipe)
    network = _network(recipe, shapes, tensors, function)
    return TrainedCode(recipe, shapes, network, quality, FitRecord(**about["record"]))


def _recipe(about: dict[str, Any]) -> Recipe:
    return RECIPES[about["kind"]](**{name: value for name, value in about.items() if name != "kind"})


def _network(
    recipe: Recipe, shapes: Shapes, tensors: dict[str, Tensor], function: nn.Module | None
) -> CodeNetwork:
    with seeded(generator(0, purpose="replaced at once")):
        network = recipe.network(shapes, function)
    state = {name.removeprefix(_NETWORK): values for name, values in tensors.items()}
    for name, values in network.state_dict().items():
        if name in state and state[name].dtype != values.dtype:
            raise ValueError(f"{name} of {state[name].dtype}, expected {values.dtype}")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _check_quality(quality: PatternQuality, recipe: Recipe) -> None:
    masks, shares = quality.masks, quality.shares
    fits = masks.shape == (len(shares), recipe.k + recipe.r) and shares.shape == (len(masks), recipe.k)
    if not fits or masks.dtype != np.bool_ or shares.dtype != np.float64:
        raise ValueError(f"qualities {shares.shape} of patterns {masks.shape}")


def _write(path: Path, content: bytes) -> None:
    """Beside its place, then renamed into it: a kill leaves the old file or the new one."""
    partial = ""
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).replace(path)
    except OSError as error:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise CodeError(
            f"cannot write {path}: {error.strerror or error}; name a file in a folder that is there"
        ) from error
