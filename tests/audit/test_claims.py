"""Noise, clipping and masks that are not in what clients send are caught, whoever left them out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedeff.app.client as client_module
from fedeff.app.settings import Settings
from fedeff.audit.defences.claims import check_wiring, require_wiring
from fedeff.audit.defences.wiring import clipping_wiring, masking_wiring, noise_wiring
from fedeff.clients.dp_sgd import DpSgd
from fedeff.core.errors import AuditError
from fedeff.core.field import PRIME
from fedeff.secure.client_session import ClientSession

BASE = Settings(dataset="digits", model="logistic", partition="iid", cohort=3, local_steps=1, batch_size=4)
LOCAL = replace(BASE, local_clipping_norm=0.02, local_noise_multiplier=0.1)
DP_SGD = replace(BASE, dp_sgd_clipping_norm=0.5, dp_sgd_noise_multiplier=0.3)
SECURE = replace(BASE, secure_aggregation="lightsecagg")


def broken(settings: Settings) -> list[str]:
    return [one.claim for one in check_wiring(settings, 3) if not one.holds]


@pytest.mark.parametrize(
    ("settings", "claims"),
    [
        (BASE, []),
        (LOCAL, ["clipping (L2)", "local gaussian noise", "noise as configured"]),
        (
            replace(LOCAL, local_noise="laplace"),
            ["clipping (L1)", "local laplace noise", "noise as configured"],
        ),
        (
            replace(LOCAL, codec="top_k(0.1)"),
            ["clipping (L2)", "local gaussian noise", "noise as configured"],
        ),
        (
            replace(LOCAL, strategy="fedlama"),
            ["clipping (L2)", "local gaussian noise", "noise as configured"],
        ),
        (replace(BASE, local_noise_multiplier=0.001), ["local gaussian noise", "noise as configured"]),
        (replace(BASE, local_clipping_norm=0.02), ["clipping (L2)"]),
        (DP_SGD, ["DP-SGD clipping", "DP-SGD noise", "noise as configured"]),
        (replace(DP_SGD, local_steps=3), ["DP-SGD clipping", "DP-SGD noise", "noise as configured"]),
        (
            replace(SECURE, local_clipping_norm=0.02, local_noise_multiplier=0.1),
            ["clipping (L2)", "local gaussian noise", "noise as configured", "masking"],
        ),
    ],
)
def test_production_carries_what_the_settings_say(settings, claims):
    found = require_wiring(settings, 3)
    assert [one.claim for one in found] == claims
    assert all(one.holds for one in found)


def test_what_is_measured_is_what_is_claimed():
    noise = next(one for one in check_wiring(LOCAL, 3) if one.claim == "local gaussian noise")
    assert noise.claimed == pytest.approx(0.002)
    assert noise.measured == pytest.approx(0.002, rel=0.15)
    private = next(one for one in check_wiring(DP_SGD, 3) if one.claim == "DP-SGD noise")
    assert private.claimed == pytest.approx(0.05 * 0.3 * 0.5 / 4)  # rate, multiplier, norm over rows
    assert private.measured == pytest.approx(private.claimed, rel=0.15)


def test_a_mod_that_is_left_out_is_caught(monkeypatch):
    """As where noise is added to what the server has seen already."""
    monkeypatch.setattr(client_module, "local_privacy_of", lambda settings: None)
    assert broken(LOCAL) == ["clipping (L2)", "local gaussian noise", "noise as configured"]
    with pytest.raises(AuditError, match="not applied before the server sees the update"):
        require_wiring(LOCAL, 3)


def test_a_mod_that_is_left_out_of_secure_rounds_alone_is_caught(monkeypatch):
    """Each defence works by itself; it is their combination that is wired wrongly."""
    real = client_module.local_privacy_of
    monkeypatch.setattr(
        client_module,
        "local_privacy_of",
        lambda settings: real(settings) if settings.secure_aggregation == "none" else None,
    )
    secure = replace(SECURE, local_clipping_norm=0.02, local_noise_multiplier=0.1)
    assert broken(secure) == ["noise as configured"]


def test_less_noise_than_is_claimed_is_caught(monkeypatch):
    real = client_module.local_privacy_of

    def halved(settings: Settings) -> Any:
        return real(replace(settings, local_noise_multiplier=settings.local_noise_multiplier / 2))

    monkeypatch.setattr(client_module, "local_privacy_of", halved)
    assert "local gaussian noise" in broken(LOCAL)


def test_noise_without_the_clipping_is_caught(monkeypatch):
    real = client_module.local_privacy_of

    def unclipped(settings: Settings) -> Any:
        std = settings.local_noise_multiplier * settings.local_clipping_norm
        return real(replace(settings, local_noise_multiplier=std, local_clipping_norm=0.0))

    monkeypatch.setattr(client_module, "local_privacy_of", unclipped)
    assert broken(LOCAL) == ["clipping (L2)"]


def test_dp_sgd_of_half_the_noise_or_of_none_is_caught(monkeypatch):
    monkeypatch.setattr(client_module, "dp_sgd_of", lambda settings: DpSgd(0.5, 0.15))
    assert "DP-SGD noise" in broken(DP_SGD)
    monkeypatch.setattr(client_module, "dp_sgd_of", lambda settings: None)
    assert broken(replace(DP_SGD, dp_sgd_clipping_norm=0.01)) == [
        "DP-SGD clipping",
        "DP-SGD noise",
        "noise as configured",
    ]


def test_vectors_that_are_not_masked_are_caught(monkeypatch):
    def unmasked(session: ClientSession) -> np.ndarray:
        return np.zeros(session.begin.size, np.int64)

    from fedeff.secure.light_sec_agg import LightSecAggClient

    monkeypatch.setattr(LightSecAggClient, "mask", unmasked)
    found = [one for one in check_wiring(SECURE, 3) if not one.holds]
    assert [one.claim for one in found] == ["masking"]
    assert "the server can read single vectors" in found[0].sentence


def test_masks_that_two_clients_share_are_caught():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, PRIME, 2000)
    own = [rng.integers(0, 1000, 2000) for _ in range(2)]
    assert not masking_wiring([(one + mask) % PRIME for one in own]).holds
    assert masking_wiring([rng.integers(0, PRIME, 2000) for _ in range(3)]).holds
    with pytest.raises(AuditError, match="expected at least 2"):
        masking_wiring([mask])


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3), st.integers(300, 3000))
def test_right_noise_is_never_blamed_and_a_third_less_is_seen(seed, std, values):
    rng = np.random.default_rng(seed)
    clean = {"w": rng.normal(size=values)}
    noise = rng.normal(0.0, std, values)
    assert noise_wiring("noise", {"w": clean["w"] + noise}, clean, std).holds
    if values > 1500:
        assert not noise_wiring("noise", {"w": clean["w"] + 2 / 3 * noise}, clean, std).holds
        assert not noise_wiring("noise", {"w": clean["w"] + 3 / 2 * noise}, clean, std).holds
    assert not noise_wiring("noise", {"w": clean["w"] + noise / 3}, clean, std, exact=False).holds


def test_clipping_is_held_to_its_bound():
    assert clipping_wiring("clipping", 1.0, 1.0).holds
    assert not clipping_wiring("clipping", 1.01, 1.0).holds


def test_nothing_that_came_in_both_views_is_no_measurement():
    with pytest.raises(AuditError, match="no value came in both views"):
        noise_wiring("noise", {}, {}, 1.0)
