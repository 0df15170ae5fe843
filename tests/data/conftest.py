import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedeff.data import fashion_mnist


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(session_cache, monkeypatch):
    """Keep the user's cache out of it; one cache for the room's tests, so that data is prepared once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_cache))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedeff"


@pytest.fixture
def fashion_folder() -> Path:
    if not fashion_mnist.has_files(fashion_mnist.DEBIAN_FOLDER):
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    return fashion_mnist.DEBIAN_FOLDER


@pytest.fixture
def tiny_files(monkeypatch) -> dict[str, bytes]:
    """Stand-ins for the four files, of a few rows, with their true digests: name -> content."""
    contents = {}
    for number, (key, file) in enumerate(list(fashion_mnist.FILES.items())):
        shape = (6 if key.startswith("train") else 3, *file.shape[1:])
        values = np.random.default_rng(number).integers(0, 10, shape, np.uint8)
        content = bytes(file.header_bytes) + values.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(fashion_mnist.FILES, key, fashion_mnist.IdxFile(file.name, digest, shape))
        contents[file.name] = content
    return contents


@pytest.fixture
def tiny_folder(tiny_files, tmp_path) -> Path:
    """A folder with the four stand-ins, gzipped."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, content in tiny_files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder
