"""Tiers name attacks that exist, with options that those have; a PASS fits into the standard one."""

import pytest

from fedeff.audit.judging.rates import clean_trials_for
from fedeff.audit.tiers import efforts_of, tier_names, tier_of
from fedeff.core.errors import ConfigError


@pytest.mark.parametrize("name", tier_names())
@pytest.mark.parametrize("task", ["classify", "next-character"])
def test_every_effort_can_be_made(name: str, task: str) -> None:
    for threat in ("curious", "informed", "malicious"):
        efforts = efforts_of(tier_of(name), task, threat)  # type: ignore[arg-type]
        assert [one.made().name for one in efforts] == [one.attack for one in efforts]
        assert ("imprint" in {one.attack for one in efforts}) == (threat == "malicious")


def test_a_pass_at_five_percent_fits_into_standard_but_not_into_quick() -> None:
    needed = clean_trials_for(0.05)
    assert tier_of("quick").trials < needed <= tier_of("standard").trials <= tier_of("deep").trials
    quick, many = tier_of("quick"), 60 * 784
    assert quick.trials_for(64) == quick.trials > quick.trials_for(many) == quick.dear_trials


def test_a_named_attack_has_the_effort_of_the_tier_and_its_own_seconds_else() -> None:
    quick = tier_of("quick")
    known, other = efforts_of(quick, "classify", "curious", ["phong", "dlg"])
    assert known in quick.images
    assert (other.attack, other.seconds) == ("dlg", quick.seconds)


def test_quick_leaves_searches_among_many_numbers_to_higher_tiers() -> None:
    exact, long = {"labels", "phong"}, {"levenberg-marquardt", "inverting-gradients"}
    bounded = {one.attack for one in tier_of("quick").images if one.most_unknowns}
    assert long <= bounded
    assert not exact & bounded
    assert not any(one.most_unknowns for one in (*tier_of("standard").images, *tier_of("deep").images))


def test_a_mistyped_name_is_never_an_empty_list() -> None:
    with pytest.raises(ConfigError, match="did you mean 'phong'"):
        efforts_of(tier_of("quick"), "classify", "curious", ["labels", "fong"])
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        tier_of("standart")
