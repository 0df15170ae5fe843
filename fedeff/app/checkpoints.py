"""Checkpoints: everything a run needs to go on after a round, one safetensors file a round.

A file holds the global model, the strategy's state, the round and the virtual clock. It is written
beside its place and renamed into it, so a kill leaves a whole file or none, and equal standings
give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedeff.core.layers import decode_record, encode_record

__all__ = ["Standing", "latest_standing", "read_standing", "write_standing"]

NDArray = np.ndarray[Any, np.dtype[Any]]

_KEPT = 3  # the newest files; more than one so that a damaged one costs a round, not the run
_FORMAT = 1


@dataclass(frozen=True)
class Standing:
    """Where a run stands after a round: what the next round is computed from."""

    server_round: int  # rounds done; 0 before the first
    model: ArrayRecord
    strategy_state: Mapping[str, NDArray] = field(default_factory=dict)
    virtual_s: float = 0.0  # what the virtual clock shows
    exchanges: int = 0  # how many exchanges it has seen; delays are drawn by this number


def write_standing(folder: Path, standing: Standing) -> Path:
    """Write the checkpoint of a round, drop all but the newest three, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{standing.server_round:06d}.safetensors"
    partial = path.with_suffix(".partial")
    partial.write_bytes(_encode(standing))
    partial.replace(path)
    for old in _files(folder)[:-_KEPT]:
        old.unlink()
    return path


def latest_standing(folder: Path, last_round: int) -> Standing | None:
    """The newest readable checkpoint of a round up to `last_round`, or None; newer ones are removed.

    A damaged file counts as absent: an earlier round, repeated, leads to the same place.
    """
    for path in reversed(_files(folder)):
        standing = read_standing(path)
        if standing is not None and standing.server_round <= last_round:
            return standing
        path.unlink()
    return None


def read_standing(path: Path) -> Standing | None:
    """The checkpoint in a file, or None where the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["standing"])
            model = {key: file.get_tensor(f"model/{key}") for key in about["model"]}
            state = {key: file.get_tensor(f"strategy/{key}") for key in about["strategy"]}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return Standing(
        about["server-round"], encode_record(model), state, about["virtual-s"], about["exchanges"]
    )


def _encode(standing: Standing) -> bytes:
    """One metadata entry only: safetensors writes several in an order that differs from run to run."""
    model = decode_record(standing.model)
    about = {
        "format": _FORMAT,
        "server-round": standing.server_round,
        "virtual-s": standing.virtual_s,
        "exchanges": standing.exchanges,
        "model": list(model),
        "strategy": sorted(standing.strategy_state),
    }
    tensors = {f"model/{key}": np.asarray(values, order="C") for key, values in model.items()}
    for key, values in standing.strategy_state.items():
        tensors[f"strategy/{key}"] = np.asarray(values, order="C")
    return save(tensors, metadata={"standing": json.dumps(about, sort_keys=True)})


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"))
