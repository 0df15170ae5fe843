"""Module-level data, so that a worker process loads it once."""

import functools
import os
import pathlib
import sys

import torch
from flwr.app import Context

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import workload

DEFAULTS = {"model": "cnn", "clients": 1000, "cohort": 100, "num-server-rounds": 5}


def setting(context: Context, key: str) -> int | str:
    """The run's setting; the environment stands in where an engine has no run config (`run_simulation`)."""
    value = context.run_config.get(key, os.environ.get(f"YARDSTICK_{key}", DEFAULTS[key]))
    return type(DEFAULTS[key])(value)


@functools.cache
def data() -> tuple[torch.Tensor, ...]:
    torch.set_num_threads(1)
    return workload.load()


@functools.cache
def shards(clients: int) -> torch.Tensor:
    return torch.from_numpy(workload.partition(data()[1].numpy(), clients))
