import numpy as np
import pytest

from fedeff import data
from fedeff.core.errors import ConfigError, DataError
from fedeff.data import catalogue, dataset_names, fashion_mnist, load, resolve


@pytest.fixture
def no_debian(monkeypatch, tmp_path, empty_cache):
    """Neither the system's copy nor a download."""
    nowhere = tmp_path / "nowhere"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", nowhere)
    return nowhere


def test_exports_are_what_there_is():
    assert sorted(data.__all__) == data.__all__
    assert all(hasattr(data, name) for name in data.__all__)


def test_unknown_names_list_the_near_ones():
    for ask in (load, resolve):
        with pytest.raises(ConfigError, match="unknown dataset 'shakespear'; did you mean 'shakespeare'"):
            ask("shakespear")


def test_digits_do_not_come_from_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="leave the data folder out"):
        load("digits", tmp_path)


def test_a_name_stands_for_itself():
    assert [resolve(name) for name in dataset_names()] == [(name, None) for name in dataset_names()]


def test_auto_is_fashion_mnist_where_it_is_found(tiny_folder, monkeypatch, no_debian):
    assert resolve("auto", tiny_folder) == ("fashion-mnist", None)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tiny_folder)
    assert resolve("auto") == ("fashion-mnist", None)
    assert catalogue()[0].found == str(tiny_folder)


def test_auto_takes_the_download(tiny_folder, no_debian):
    to = data.fetch("fashion-mnist", address=tiny_folder.as_uri())
    assert resolve("auto") == ("fashion-mnist", None)
    assert catalogue()[0].found == str(to)


def test_auto_falls_back_with_a_notice(no_debian):
    name, notice = resolve("auto")
    assert name == "shakespeare"
    assert notice is not None
    assert "using Shakespeare's speaking roles" in notice
    assert "fedeff data fetch fashion-mnist" in notice
    assert "\n" not in notice
    assert catalogue()[0].found == ""


def test_auto_with_a_folder_that_has_nothing(tmp_path):
    with pytest.raises(DataError, match="does not hold the four files of Fashion-MNIST"):
        resolve("auto", tmp_path)


def test_the_catalogue_tells_the_truth():
    assert [entry.name for entry in catalogue()] == list(dataset_names())
    assert all(entry.found for entry in catalogue() if entry.name != "fashion-mnist")
    for entry in (entry for entry in catalogue() if entry.found):
        dataset = load(entry.name)
        assert (entry.train_rows, entry.test_rows) == (len(dataset.train), len(dataset.test))
        assert (entry.task, entry.classes) == (dataset.task, dataset.classes)
        assert entry.input_shape == dataset.input_shape
        assert entry.natural_clients == (0 if dataset.groups is None else len(np.unique(dataset.groups)))
