"""Sessions: masks cancel whoever is lost, and too few are refused."""

import itertools

import numpy as np
import pytest
from apps.secure_sessions import PROTOCOLS, Session, few, terms_for, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError, SecureAggregationError
from fedeff.secure import Step, Terms
from fedeff.secure.graph import neighbours_of

STEPS = (Step.KEYS, Step.SHARES, Step.INPUT, Step.REVEAL, Step.DONE)


def assert_exact_or_refused(session: Session) -> bool:
    """Whether there was a sum; it is the plain one, and refused only where the protocol must."""
    left = [sum(session.lost.get(n, Step.DONE) > step for n in session.vectors) for step in STEPS[:4]]
    if min(left) < session.terms.fewest:
        with pytest.raises(SecureAggregationError, match="clients are left after step"):
            session.run()
        return False
    assert session.run().tolist() == session.expected().tolist()
    stay = {n for n in session.vectors if session.lost.get(n, Step.DONE) > Step.INPUT}
    assert session.server.present == stay
    assert session.refused == []
    return True


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_cancel_wherever_any_one_of_four_is_lost_and_two_are_too_many(protocol):
    terms, vectors = few(protocol, 4, 3), vectors_of(4)
    for number, step in itertools.product(vectors, STEPS):
        assert assert_exact_or_refused(Session(terms, vectors, {number: step}, revived=True))
    for steps in itertools.product(STEPS[:4], repeat=2):
        assert not assert_exact_or_refused(Session(terms, vectors, dict(zip((2, 4), steps, strict=True))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=6, max_size=6))
@settings(max_examples=15)
def test_masks_cancel_for_any_mixture_of_lost_clients_and_steps_among_six(protocol, steps):
    vectors = vectors_of(6)
    lost = dict(zip(vectors, steps, strict=True))
    few_lost = sum(step != Step.DONE for step in steps) <= 2  # a sparse graph may lose a neighbourhood
    terms = few(protocol if few_lost else protocol.removesuffix("+"), 6, 4)
    assert_exact_or_refused(Session(terms, vectors, lost))


@pytest.mark.parametrize("clients", [3, 5, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_cancel_for_every_set_of_inputs_that_never_came(protocol, clients):
    terms, vectors = few(protocol, clients, clients // 2 + 1), vectors_of(clients)
    for pattern in itertools.product((Step.INPUT, Step.DONE), repeat=clients):
        if protocol != "secagg+" or pattern.count(Step.INPUT) <= 2:
            assert_exact_or_refused(Session(terms, vectors, dict(zip(vectors, pattern, strict=True))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_thirty_percent_of_twenty_are_lost_at_mixed_steps(protocol):
    terms = terms_for(protocol, 20)
    lost = dict(zip((2, 5, 9, 11, 14, 20), itertools.cycle(STEPS[:4]), strict=False))
    assert assert_exact_or_refused(Session(terms, vectors_of(20, 33), lost))


def test_secagg_plus_refuses_where_a_neighbourhood_is_lost():
    """The terms promise that this is rare, not that it never happens."""
    terms, vectors = Terms("secagg+", 8, 3, 1, 5, 2), vectors_of(8)
    session = Session(terms, vectors)
    around = neighbours_of(1, terms, session.server.session)
    session.lost = dict.fromkeys(around, Step.REVEAL)
    with pytest.raises(SecureAggregationError, match="1 shares of a secret of client 1 were revealed"):
        session.run()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_travels_hides_the_vector(protocol):
    """Equal inputs give unrelated messages in two sessions, and none holds the input's bytes."""
    vectors = {n: np.full(50, 7) for n in range(1, 5)}
    one, two = Session(few(protocol, 4, 3), vectors), Session(few(protocol, 4, 3), vectors)
    one.run(), two.run()
    plain = np.full(50, 7, "<u4").tobytes()
    for key, message in one.sent.items():
        assert message != two.sent[key]
        assert plain[:16] not in message


def test_terms_follow_from_shares_and_impossible_ones_are_refused():
    assert terms_for("lightsecagg", 10) == Terms("lightsecagg", 10, 7, 2, 7, 9)
    assert terms_for("secagg", 100, dropout=0.1).threshold == 90
    plus = terms_for("secagg+", 100)
    assert plus.neighbours < 60
    assert plus.threshold <= plus.neighbours * 0.7
    assert terms_for("secagg+", 100, neighbours=21).neighbours == 22
    with pytest.raises(ConfigError, match="did you mean 'secagg'"):
        terms_for("secag", 10)
    with pytest.raises(ConfigError, match="1 <= privacy < threshold"):
        terms_for("lightsecagg", 10, dropout=0.4, privacy=0.6)
    with pytest.raises(ConfigError, match="more than half"):
        terms_for("secagg", 10, dropout=0.5)
    with pytest.raises(ConfigError, match="two clients or more"):
        terms_for("secagg", 1)
