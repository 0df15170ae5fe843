"""Datasets on disk or embedded, and ways to cut them into clients."""

from fedeff.data.cache import cache_folder
from fedeff.data.catalogue import CatalogueEntry, catalogue, dataset_names, load, resolve
from fedeff.data.dataset import Dataset, Split
from fedeff.data.download import fetch
from fedeff.data.partition import Partition
from fedeff.data.split import Scheme, parse_scheme, scheme_names, split, split_test

__all__ = [
    "CatalogueEntry",
    "Dataset",
    "Partition",
    "Scheme",
    "Split",
    "cache_folder",
    "catalogue",
    "dataset_names",
    "fetch",
    "load",
    "parse_scheme",
    "resolve",
    "scheme_names",
    "split",
    "split_test",
]
