"""Shares against Python's own whole numbers, and how they look to those who hold too few."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fedeff.core.errors import SecureAggregationError
from fedeff.core.field import PRIME, random_elements
from fedeff.core.rng import generator
from fedeff.secure import LightSecAggClient, LightSecAggServer
from fedeff.secure.client_session import ClientSession
from fedeff.secure.mask_shares import mask_shares, mask_sum, piece_length
from fedeff.secure.masks import elements_of
from fedeff.secure.messages import PeerKeys
from fedeff.secure.shamir import recovered, shares_of
from fedeff.secure.terms import Terms


def interpolated(points, values, at):
    """Lagrange's formula in whole numbers."""
    total = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        term = y
        for j, other in enumerate(points):
            if i != j:
                term = term * (at - other) * pow(x - other, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def terms(clients: int, threshold: int, privacy: int) -> Terms:
    return Terms("lightsecagg", clients, threshold, privacy, threshold, clients - 1)


@given(
    seed=st.integers(0, 2**32), threshold=st.integers(2, 5), more=st.integers(0, 3), length=st.integers(1, 3)
)
@settings(max_examples=30)
def test_shares_are_values_of_the_naive_polynomial_and_any_threshold_gives_secrets_back(
    seed, threshold, more, length
):
    rng = generator(seed, purpose="shamir")
    secrets = [rng.bytes(2 * length) for _ in range(2)]
    points = np.sort(rng.choice(50, threshold + more, replace=False) + 1)
    noise = random_elements(rng, (threshold - 1, 2 * length))
    shares = shares_of(secrets, threshold, points, noise)
    limbs = np.frombuffer(b"".join(secrets), "<u2").tolist()
    for place, point in enumerate(points.tolist()):
        naive = [
            (limb + sum(c * point**e for e, c in enumerate(column, 1))) % PRIME
            for limb, column in zip(limbs, noise.T.tolist(), strict=True)
        ]
        assert shares[place].reshape(-1).tolist() == naive
    some = rng.permutation(len(points))[:threshold]
    assert recovered(points[some], shares[some]) == secrets
    assert recovered(points, shares) == secrets


def test_a_wrong_share_is_seen_where_it_gives_no_bytes_back():
    points = np.arange(1, 6)
    shares = shares_of([bytes(range(32))], 3, points)
    shares[1, 0, 4] = (shares[1, 0, 4] + 2**30) % PRIME  # times its weight of -3 nowhere near 16 bits
    with pytest.raises(SecureAggregationError, match="one of them is wrong"):
        recovered(points[:3], shares[:3])


@given(
    seed=st.integers(0, 2**32), pieces=st.integers(1, 3), privacy=st.integers(1, 3), lost=st.integers(0, 2)
)
@settings(max_examples=30)
def test_coded_masks_are_values_of_the_naive_polynomial_and_their_sums_interpolate(
    seed, pieces, privacy, lost
):
    rng = generator(seed, purpose="light")
    threshold = pieces + privacy
    agreed = terms(threshold + min(lost, threshold - 1), threshold, privacy)
    size = int(rng.integers(1, 8))
    masks = random_elements(rng, (3, size))
    length = piece_length(size, agreed)
    noises = random_elements(rng, (3, privacy, length))
    everyone = range(1, agreed.clients + 1)
    shares = [mask_shares(m, n, agreed, everyone) for m, n in zip(masks, noises, strict=True)]
    padded = np.zeros(pieces * length, np.int64)
    padded[:size] = masks[0]
    values = np.concatenate([padded.reshape(pieces, length), noises[0]])
    at = range(agreed.clients + 1, agreed.clients + threshold + 1)
    for number in everyone:
        naive = [interpolated(at, column, number) for column in values.T.tolist()]
        assert shares[0][number - 1].tolist() == naive
    holders = np.sort(rng.permutation(agreed.clients)[:threshold]) + 1
    sums = np.mod(sum(shares), PRIME)
    expected = np.mod(masks.sum(axis=0), PRIME)
    assert mask_sum(holders.tolist(), sums[holders - 1], size, agreed).tolist() == expected.tolist()
    assert mask_sum(list(everyone), sums, size, agreed).tolist() == expected.tolist()


def test_a_wrong_sum_of_shares_is_seen_by_those_beyond_the_threshold_and_too_few_are_refused():
    agreed = terms(5, 3, 1)
    rng = generator(0, purpose="light")
    shares = mask_shares(random_elements(rng, 4), random_elements(rng, (1, 2)), agreed, range(1, 6))
    shares[0, 0] = (shares[0, 0] + 1) % PRIME
    with pytest.raises(SecureAggregationError, match="do not fit together"):
        mask_sum([1, 2, 3, 4], shares[:4], 4, agreed)
    with pytest.raises(SecureAggregationError, match="2 clients told their sums"):
        mask_sum([1, 2], shares[:2], 4, agreed)


# A share's top bits, `bins` of them, of secrets that are anything but uniform: one chance in 10^9 to fail.
ALPHA, BINS, DRAWS = 1e-9, 16, 4000


def assert_uniform(samples: np.ndarray, bins: int = BINS) -> None:
    """Pearson's test over cells of all colluders' shares together."""
    cells = (samples * bins // PRIME) @ (bins ** np.arange(samples.shape[1]))
    cell_count = bins ** samples.shape[1]
    counts = np.bincount(cells, minlength=cell_count)
    expected = len(samples) / cell_count
    statistic = float(((counts - expected) ** 2).sum() / expected)
    assert chi2.ppf(ALPHA, cell_count - 1) < statistic < chi2.isf(ALPHA, cell_count - 1)


@pytest.mark.parametrize("colluders", [(1, 2), (2, 5)])
def test_shares_of_any_two_colluders_are_uniform_together_whatever_the_mask(colluders):
    agreed, rng = terms(5, 4, 2), generator(1, purpose="colluders")
    mask = np.array([7, 7])
    seen = np.array(
        [mask_shares(mask, random_elements(rng, (2, 1)), agreed, colluders) for _ in range(DRAWS)]
    )
    assert_uniform(seen[:, :, 0])


@pytest.mark.parametrize("colluders", [(0, 1), (2, 4)])
def test_shamir_shares_of_fewer_than_the_threshold_are_uniform_together(colluders):
    secret = bytes(2 * DRAWS)  # zeros: each limb is shared by a polynomial of its own
    noise = random_elements(generator(2, purpose="colluders"), (2, DRAWS))
    shares = shares_of([secret], 3, np.arange(1, 6), noise)
    assert_uniform(shares[list(colluders), 0].T)


def test_a_clients_own_mask_and_the_share_that_it_gives_away_are_uniform_together():
    """Mask and noise are expanded from one seed, but have nothing to do with each other."""
    agreed, rng = terms(2, 2, 1), generator(3, purpose="colluders")
    invitation = LightSecAggServer(agreed, 1, 1).invitation(1)
    kept = replace(ClientSession.fresh(invitation), peers=(PeerKeys(2, b"", b""),))
    found = []
    for _ in range(1500):
        client = LightSecAggClient(replace(kept, seed=rng.bytes(32)))
        found.append([client.mask()[0], elements_of(client.shares()[0], 1)[0]])
    assert_uniform(np.array(found), bins=8)


def test_three_colluders_are_too_many_for_privacy_two_so_the_test_can_fail():
    agreed, rng = terms(5, 4, 2), generator(1, purpose="colluders")
    mask = np.array([7, 7])
    seen = np.array([mask_shares(mask, random_elements(rng, (2, 1)), agreed, (1, 2, 3)) for _ in range(500)])
    # Three values and the two known ones lie on a polynomial of degree 3: one linear relation holds.
    sets = {interpolated((1, 2, 3, 6), (*row[:, 0].tolist(), 7), 7) for row in seen}
    assert sets == {7}
