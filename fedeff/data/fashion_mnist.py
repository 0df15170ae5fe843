"""Fashion-MNIST (Xiao et al., arXiv:1708.07747): 70,000 grey images of 28 x 28, ten classes.

Read from any folder that holds the four original files, gzipped or not; each is checked by the
sha256 of its decompressed content.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedeff.core.errors import DataError
from fedeff.data.cache import Arrays, cache_folder, file_stamp, mapped_arrays
from fedeff.data.dataset import Dataset, Split

__all__ = [
    "CLASS_NAMES",
    "DEBIAN_FOLDER",
    "FILES",
    "IdxFile",
    "download_folder",
    "find_folder",
    "has_files",
    "load_fashion_mnist",
    "read_checked",
]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
REMEDY = (
    "run `fedeff data fetch fashion-mnist`, install Debian's dataset-fashion-mnist, "
    "or name a folder that holds its four files"
)
ADVICE = f"delete it, then {REMEDY}"


@dataclass(frozen=True)
class IdxFile:
    """One file in the idx format: a header of `4 + 4 * ndim` bytes, then uint8 in C order."""

    name: str
    sha256: str  # of the decompressed content
    shape: tuple[int, ...]

    @property
    def header_bytes(self) -> int:
        """Bytes before the first value: a magic number and one number for each dimension."""
        return 4 + 4 * (1 if len(self.shape) == 1 else 3)

    @property
    def content_bytes(self) -> int:
        """Bytes of the decompressed file, header included."""
        return self.header_bytes + int(np.prod(self.shape))


FILES = {
    "train-x": IdxFile(
        "train-images-idx3-ubyte",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        (60_000, 1, 28, 28),
    ),
    "train-y": IdxFile(
        "train-labels-idx1-ubyte",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        (60_000,),
    ),
    "test-x": IdxFile(
        "t10k-images-idx3-ubyte",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        (10_000, 1, 28, 28),
    ),
    "test-y": IdxFile(
        "t10k-labels-idx1-ubyte",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        (10_000,),
    ),
}


def load_fashion_mnist(folder: Path | None = None) -> Dataset:
    """60,000 train and 10,000 test images, x uint8 (n, 1, 28, 28), y in 0..9.

    Reads `folder`, else Debian's, else what `fetch` has downloaded; never the network.

    Raises:
        DataError: a file is missing, truncated, or not the original one.
    """
    where = find_folder() if folder is None else folder
    if where is None:
        raise DataError(f"Fashion-MNIST is not on this machine; {REMEDY}")
    paths = {key: _path_of(file, where) for key, file in FILES.items()}
    arrays = mapped_arrays("fashion-mnist", [file_stamp(p) for p in paths.values()], lambda: _read(paths))
    return Dataset(
        name="fashion-mnist",
        train=Split(arrays["train-x"], arrays["train-y"], full_scale=255.0),
        test=Split(arrays["test-x"], arrays["test-y"], full_scale=255.0),
        classes=10,
        input_shape=(1, 28, 28),
        label_names=CLASS_NAMES,
    )


def find_folder() -> Path | None:
    """The first folder with all four files: Debian's, then the download's; None if neither has."""
    return next((folder for folder in (DEBIAN_FOLDER, download_folder()) if has_files(folder)), None)


def download_folder() -> Path:
    """Where `fetch` puts the files unless told otherwise: a folder in the cache."""
    return cache_folder() / "downloads" / "fashion-mnist"


def has_files(folder: Path) -> bool:
    """Whether all four files are there, gzipped or not; their content is checked on loading."""
    return all(any(path.is_file() for path in _candidates(file, folder)) for file in FILES.values())


def read_checked(path: Path, file: IdxFile, *, shown: str = "", advice: str = ADVICE) -> bytes:
    """The decompressed content of a file, once its sha256 is the expected one.

    An error names the file as `shown` (default: its path) and ends with `advice`.

    Raises:
        DataError: the file cannot be read or decompressed, or holds something else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(file.content_bytes + 1)  # one more, so that a longer file differs
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {shown or path}: {error}; {advice}") from error
    seen = hashlib.sha256(content).hexdigest()
    if seen != file.sha256:
        raise DataError(
            f"{shown or path} is not {file.name} of Fashion-MNIST: decompressed sha256 is {seen}, "
            f"expected {file.sha256}; {advice}"
        )
    return content


def _candidates(file: IdxFile, folder: Path) -> tuple[Path, Path]:
    return folder / f"{file.name}.gz", folder / file.name


def _path_of(file: IdxFile, folder: Path) -> Path:
    for path in _candidates(file, folder):
        if path.is_file():
            return path
    raise DataError(f"{folder} holds neither {file.name}.gz nor {file.name}; {REMEDY}")


def _read(paths: dict[str, Path]) -> Arrays:
    arrays: Arrays = {}
    for key, file in FILES.items():
        values = np.frombuffer(read_checked(paths[key], file), np.uint8, offset=file.header_bytes)
        arrays[key] = values.reshape(file.shape)
        if len(file.shape) == 1:
            arrays[key] = arrays[key].astype(np.int64)
    return arrays
