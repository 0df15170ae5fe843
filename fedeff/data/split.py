"""Cutting a dataset into clients, as a short specification says."""

import math
from dataclasses import dataclass

import numpy as np

from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.rng import generator
from fedeff.data.dataset import Dataset, Indices
from fedeff.data.dirichlet import deal_by_mix, dirichlet
from fedeff.data.iid import iid
from fedeff.data.natural import by_group, natural
from fedeff.data.partition import Partition, even_sizes
from fedeff.data.quantity import quantity
from fedeff.data.shards import shards

__all__ = ["Scheme", "parse_scheme", "scheme_names", "split", "split_test"]

PARAMETERS = {  # what stands behind the colon, and an example
    "iid": None,
    "dirichlet": ("a concentration above 0, at most 1e6", "dirichlet:0.3"),
    "shards": ("classes per client, a whole number from 1", "shards:2"),
    "quantity": ("a skew from 0 to 100", "quantity:1.0"),
    "natural": None,
}


@dataclass(frozen=True)
class Scheme:
    """How to cut: a name and, for some, a number. `parse_scheme` makes one from text."""

    name: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.name not in PARAMETERS:
            raise unknown_name("partition", self.name, PARAMETERS)
        expected = PARAMETERS[self.name]
        if expected is None and self.parameter is not None:
            raise ConfigError(
                f"partition {self.name!r} takes no number, seen {self.parameter:g}; say {self.name}"
            )
        if expected is not None and not _fits(self.name, self.parameter):
            seen = "none" if self.parameter is None else f"{self.parameter:g}"
            raise ConfigError(f"partition {self.name!r} needs {expected[0]}, seen {seen}; say {expected[1]}")


def scheme_names() -> tuple[str, ...]:
    """The names that a specification may start with."""
    return tuple(PARAMETERS)


def parse_scheme(spec: str) -> Scheme:
    """The scheme that `iid`, `dirichlet:0.3`, `shards:2`, `quantity:1.0` or `natural` stands for.

    Raises:
        ConfigError: the name is unknown, or its number is missing, superfluous or out of range.
    """
    name, colon, number = (part.strip() for part in spec.partition(":"))
    if name not in PARAMETERS or not colon:
        return Scheme(name)
    try:
        return Scheme(name, float(number))
    except ValueError:
        example = (PARAMETERS[name] or (None, name))[1]
        raise ConfigError(f"partition {spec!r}: {number!r} is not a number; say {example}") from None


def split(
    source: Dataset | Indices,
    spec: str,
    clients: int,
    seed: int,
    *,
    groups: Indices | None = None,
    allow_empty: bool = False,
) -> Partition:
    """Deal the train rows of a dataset, or of an array of labels, to clients.

    `spec` is `iid`, `dirichlet:ALPHA` or `shards:CLASSES_PER_CLIENT` (by label), `quantity:SKEW`
    (unequal sizes) or `natural` (by `groups`). Every row goes to exactly one client, but for
    `natural`, which leaves the groups without a client out. Equal arguments give equal partitions.

    >>> [rows.size for rows in split(np.array([0, 1] * 5), "iid", clients=3, seed=0)]
    [4, 3, 3]

    Raises:
        ConfigError: `spec` is not one of these, there is no client, more clients than rows
            (unless `allow_empty`) or than groups, or the dataset has no groups.
    """
    scheme = parse_scheme(spec)
    rows = len(source.train) if isinstance(source, Dataset) else len(source)
    _check_counts(rows, clients, seed, allow_empty)
    rng = generator(seed, purpose="partition")
    parameter = scheme.parameter or 0.0
    match scheme.name:
        case "iid":
            return iid(rows, clients, rng)
        case "quantity":
            return quantity(rows, clients, parameter, rng, least=0 if allow_empty else 1)
        case "natural":
            own = source.groups if isinstance(source, Dataset) and groups is None else groups
            return natural(_checked_groups(own, rows), clients)
        case "dirichlet":
            return dirichlet(_labels(source), clients, parameter, rng)
        case _:
            return shards(_labels(source), clients, int(parameter), rng)


def split_test(dataset: Dataset, partition: Partition, seed: int) -> Partition:
    """Deal the test rows to the clients of a partition, each in the image of what it trains on.

    Natural clients get the test rows of their own group, possibly none. Others get equally many,
    of a class mix like their train rows' (`partition` must come from this dataset).
    """
    if partition.groups is not None and dataset.test_groups is not None:
        return by_group(dataset.test_groups, partition.groups)
    labels, test_labels = dataset.labels, dataset.test_labels
    classes = 1 + int(max(labels.max(initial=0), test_labels.max(initial=0)))
    mix = partition.class_counts(labels, classes) / np.maximum(partition.sizes, 1)[:, np.newaxis]
    rng = generator(seed, purpose="test partition")
    return deal_by_mix(test_labels, mix, even_sizes(len(test_labels), len(partition)), rng)


def _fits(name: str, parameter: float | None) -> bool:
    if parameter is None or not math.isfinite(parameter):
        return False
    if name == "shards":
        return parameter >= 1 and parameter == int(parameter)
    return 0 < parameter <= 1e6 if name == "dirichlet" else 0 <= parameter <= 100


def _check_counts(rows: int, clients: int, seed: int, allow_empty: bool) -> None:
    if clients < 1:
        raise ConfigError(f"{clients} clients; use at least 1")
    if rows < 1:
        raise ConfigError("no rows to split; use a dataset that has some")
    if clients > rows and not allow_empty:
        raise ConfigError(
            f"{clients} clients but {rows} samples; use at most {rows} clients, or allow empty ones"
        )
    if seed < 0:
        raise ConfigError(f"seed is {seed}; use 0 or more")


def _checked_groups(groups: Indices | None, rows: int) -> Indices:
    if groups is None:
        raise ConfigError("partition 'natural' needs groups and this dataset has none; try dirichlet:0.3")
    if len(groups) != rows:
        raise ConfigError(f"{len(groups)} groups for {rows} rows; give the group of each row")
    return groups


def _labels(source: Dataset | Indices) -> Indices:
    return source.labels if isinstance(source, Dataset) else source
