import gzip
import hashlib
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from fedeff.core.errors import ConfigError, DataError
from fedeff.data import download, fashion_mnist, fetch, load

IMAGES = "train-images-idx3-ubyte"


def test_tiny_stand_ins_load_as_written(tiny_folder, tiny_files):
    dataset = load("fashion-mnist", tiny_folder)
    values = np.frombuffer(tiny_files[IMAGES], np.uint8)[16:].reshape(6, 1, 28, 28)
    np.testing.assert_array_equal(dataset.train.x, values)
    np.testing.assert_array_equal(dataset.test.y, list(tiny_files["t10k-labels-idx1-ubyte"][8:]))
    x, _ = dataset.train.batch(np.array([1]))
    np.testing.assert_array_equal(x[0], values[1].astype(np.float32) / 255)


def test_raw_files_give_the_same(tiny_folder, tiny_files, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in tiny_files.items():
        (raw / name).write_bytes(content)
    one, other = load("fashion-mnist", tiny_folder), load("fashion-mnist", raw)
    np.testing.assert_array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.test.y, other.test.y)


def test_missing_file_is_named_with_a_remedy(tiny_folder):
    (tiny_folder / f"{IMAGES}.gz").unlink()
    with pytest.raises(DataError, match=rf"holds neither {IMAGES}\.gz nor {IMAGES}; run `fedeff data fetch"):
        load("fashion-mnist", tiny_folder)


def test_other_content_shows_both_digests(tiny_folder, tiny_files):
    wrong = bytes(len(tiny_files[IMAGES]))
    path = tiny_folder / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(wrong))
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", tiny_folder)
    message = str(caught.value)
    for part in (
        str(path),
        hashlib.sha256(wrong).hexdigest(),
        hashlib.sha256(tiny_files[IMAGES]).hexdigest(),
        "delete it",
    ):
        assert part in message
    assert "\n" not in message


def test_longer_content_is_refused(tiny_folder, tiny_files):
    (tiny_folder / f"{IMAGES}.gz").write_bytes(gzip.compress(tiny_files[IMAGES] + b"\0"))
    with pytest.raises(DataError, match="sha256"):
        load("fashion-mnist", tiny_folder)


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped", "a folder"])
def test_damaged_gzip_is_a_data_error(tiny_folder, damage):
    path = tiny_folder / f"{IMAGES}.gz"
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "not gzip":
            path.write_bytes(b"<html>404</html>")
        case "flipped":
            middle = len(content) // 2
            path.write_bytes(
                content[:middle]
                + bytes(b ^ 255 for b in content[middle : middle + 40])
                + content[middle + 40 :]
            )
        case "a folder":
            path.unlink()
            path.mkdir()
    with pytest.raises(DataError, match=IMAGES):
        load("fashion-mnist", tiny_folder)


def test_file_damaged_after_it_was_cached_is_noticed(tiny_folder):
    load("fashion-mnist", tiny_folder)
    path = tiny_folder / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read"):
        load("fashion-mnist", tiny_folder)


def test_files_are_verified_once(tiny_folder, monkeypatch):
    load("fashion-mnist", tiny_folder)

    def never(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(fashion_mnist, "read_checked", never)
    assert len(load("fashion-mnist", tiny_folder).train) == 6


def test_nowhere_to_be_found(monkeypatch, tmp_path, empty_cache):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(DataError, match="not on this machine; run `fedeff data fetch"):
        load("fashion-mnist")


def test_fetch_brings_checked_files_that_load_finds(tiny_folder, monkeypatch, tmp_path, empty_cache):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    folder = fetch("fashion-mnist", address=tiny_folder.as_uri())
    assert folder == empty_cache / "downloads" / "fashion-mnist"
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tiny_folder.iterdir())
    assert len(load("fashion-mnist").train) == 6


def test_fetch_keeps_right_files_and_replaces_wrong_ones(tiny_folder, tmp_path, monkeypatch):
    to = fetch("fashion-mnist", tmp_path / "to", address=tiny_folder.as_uri())
    (to / f"{IMAGES}.gz").write_bytes(b"rubbish")
    asked = []
    opened = download.urllib.request.urlopen
    monkeypatch.setattr(
        download.urllib.request,
        "urlopen",
        lambda url, **settings: asked.append(url) or opened(url, **settings),
    )
    fetch("fashion-mnist", to, address=tiny_folder.as_uri())
    assert [Path(url).name for url in asked] == [f"{IMAGES}.gz"]
    assert (to / f"{IMAGES}.gz").read_bytes() == (tiny_folder / f"{IMAGES}.gz").read_bytes()


# Named by hand: a zipped text holds its time, and processes that share the tests must agree on names.
@pytest.mark.parametrize("content", [gzip.compress(b"other"), b"<html>", b""], ids=["other", "page", "none"])
def test_wrong_download_leaves_nothing(tiny_folder, tmp_path, content):
    (tiny_folder / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"{tiny_folder.as_uri()}/{IMAGES}\.gz.*; try again, or install"):
        fetch("fashion-mnist", tmp_path / "to", address=tiny_folder.as_uri())
    assert list((tmp_path / "to").iterdir()) == []


def test_broken_connection_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch):
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, _=-1):
            raise TimeoutError("timed out")

    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Broken())
    with pytest.raises(DataError, match=r"timed out; try again, or install Debian's dataset-fashion-mnist"):
        fetch("fashion-mnist", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(url, **_):
        assert url.startswith("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/")
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError, match=r"cannot download Fashion-MNIST.*no route.*name their folder"):
        fetch("fashion-mnist", tmp_path / "to")


def test_fetch_knows_what_there_is_to_fetch():
    with pytest.raises(DataError, match="digits comes with fedeff's installation"):
        fetch("digits")
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        fetch("fashion-mnst")


def test_the_real_files(fashion_folder):
    dataset = load("fashion-mnist", fashion_folder)
    assert dataset.train.x.shape == (60_000, 1, 28, 28)
    assert dataset.test.x.shape == (10_000, 1, 28, 28)
    assert dataset.train.x.dtype == np.uint8
    assert np.bincount(dataset.labels).tolist() == [6_000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1_000] * 10
    assert dataset.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert isinstance(dataset.train.x.base, np.memmap)
    header = 16
    with gzip.open(fashion_folder / f"{IMAGES}.gz") as stream:
        content = stream.read()
    assert hashlib.sha256(content).hexdigest().startswith("c59f468a2f672dc8")
    assert dataset.train.x.tobytes() == content[header:]
