"""One exception tree, and typos that name their neighbours."""

import inspect

import pytest

from fedeff.core import errors
from fedeff.core.errors import ConfigError, FedeffError, unknown_name


def test_every_error_is_a_fedeff_error_and_exported():
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert classes | {"unknown_name"} == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), FedeffError) for name in classes)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ("pareot", "unknown delay 'pareot'; did you mean 'pareto'? Known: none, pareto, weibull"),
        ("zzz", "unknown delay 'zzz'. Known: none, pareto, weibull"),
    ],
)
def test_a_typo_lists_the_nearest_names(seen, message):
    error = unknown_name("delay", seen, iter(["weibull", "none", "pareto"]))
    assert isinstance(error, ConfigError)
    assert str(error) == message


def test_two_near_names_are_both_offered():
    assert "'fc1' or 'fc2'" in str(unknown_name("layer", "fc3", ["fc1", "fc2", "conv"])).replace(
        "'fc2' or 'fc1'", "'fc1' or 'fc2'"
    )
