"""What is learned: the dataset, its partition and the model that the settings ask for.

Server and clients each make these from the same settings, in their own process, once.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path

from torch import nn

from fedeff.app.initial_weights import load_initial_weights
from fedeff.app.low_rank import low_rank_of
from fedeff.app.objectives import network_of
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError
from fedeff.data import Dataset, Partition, load, resolve, split, split_test
from fedeff.models import build, describe

__all__ = ["Shares", "client_model", "dataset_of", "new_model", "resolved", "shares_of"]

# What a text asks for in place of the defaults, which are for images.
_FOR_TEXT: dict[str, str | float] = {"model": "gru", "partition": "natural", "learning_rate": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """Which rows each client holds: to train on and, of the same kind, to test on."""

    train: Partition
    test: Partition


def resolved(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings with every "auto" decided, and notices of what was decided in the user's place.

    Raises:
        ConfigError: if the model cannot read the data.
        DataError: if the data folder does not hold the data.
    """
    name, notice = resolve(settings.dataset, _folder(settings.data_folder))
    notices = [notice] if notice else []
    settings = dataclasses.replace(settings, dataset=name)
    if name == "shakespeare":
        changes = _unless_given(settings, _FOR_TEXT)
        settings = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
        if changes:
            shown = ", ".join(f"{field.replace('_', '-')} = {value}" for field, value in changes.items())
            notices.append(f"Shakespeare is text, so in place of the defaults for images: {shown}.")
    if settings.initial_weights:  # workers may have another working directory
        found = str(Path(settings.initial_weights).expanduser().absolute())
        settings = dataclasses.replace(settings, initial_weights=found)
    elif settings.low_rank == "lora":
        notices.append(
            "low-rank = lora without initial-weights adapts random weights, which learns little; name a run "
            "to begin with."
        )
    _check_task(settings)
    return settings, tuple(notices)


def dataset_of(settings: Settings) -> Dataset:
    """The dataset of resolved settings, read once a process."""
    return _dataset(settings.dataset, settings.data_folder)


def shares_of(settings: Settings, clients: int) -> Shares:
    """The dataset of resolved settings cut into so many clients, once a process.

    Raises:
        ConfigError: if the data cannot be cut into so many clients.
        DataError: if the data cannot be read.
    """
    return _shares(settings.dataset, settings.data_folder, settings.partition, clients, settings.seed)


def new_model(settings: Settings) -> nn.Module:
    """A new model with the weights that every run of these settings starts from."""
    dataset = dataset_of(settings)
    model = build(
        settings.model, classes=dataset.classes, input_shape=dataset.input_shape, seed=settings.seed
    )
    network, low_rank = network_of(settings, model), low_rank_of(settings)
    if settings.initial_weights:
        load_initial_weights(network, settings.initial_weights, new_model)
    return network if low_rank is None else low_rank.apply(network, settings.seed)


def client_model(settings: Settings) -> nn.Module:
    """The model that clients train; its weights come with every message, but for those that lora adapts."""
    if settings.low_rank != "lora":
        settings = dataclasses.replace(settings, initial_weights="")
    return new_model(settings)


@lru_cache(maxsize=2)
def _dataset(name: str, folder: str) -> Dataset:
    return load(name, _folder(folder))


@lru_cache(maxsize=4)
def _shares(name: str, folder: str, partition: str, clients: int, seed: int) -> Shares:
    dataset = _dataset(name, folder)
    train = split(dataset, partition, clients, seed)
    return Shares(train, split_test(dataset, train, seed))


def _folder(folder: str) -> Path | None:
    return Path(folder).expanduser() if folder else None


def _unless_given(settings: Settings, wanted: dict[str, str | float]) -> dict[str, str | float]:
    """Those of the wanted values whose setting is still at its default."""
    defaults = Settings()
    return {
        field: value
        for field, value in wanted.items()
        if getattr(settings, field) == getattr(defaults, field)
    }


def _check_task(settings: Settings) -> None:
    wanted = "next-character" if settings.dataset == "shakespeare" else "classify"
    if describe(settings.model).task != wanted:
        fitting = (
            "gru, lstm or transformer"
            if wanted == "next-character"
            else "cnn, mlp, resnet20, resnet20-small or logistic"
        )
        raise ConfigError(
            f"model = {settings.model!r} cannot learn dataset = {settings.dataset!r}; use {fitting}"
        )
