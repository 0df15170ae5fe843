"""Attacks by name."""

import pytest

from fedeff.audit.attacks.table import attack_names, attack_of, attack_summary
from fedeff.core.errors import ConfigError


def test_every_attack_has_the_name_that_the_table_gives_it():
    for name in attack_names():
        assert attack_of(name).name == name
        assert attack_summary(name)
        assert "\n" not in attack_summary(name)


@pytest.mark.parametrize("ask", [attack_of, attack_summary])
def test_a_misspelt_name_is_an_error_that_tells_the_nearest(ask):
    with pytest.raises(ConfigError, match="did you mean 'levenberg-marquardt'"):
        ask("levenberg-marquart")
