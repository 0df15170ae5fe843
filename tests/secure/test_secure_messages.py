"""Messages that are changed, repeated, forged, of another round or session are refused, never summed."""

import numpy as np
import pytest
from apps.secure_sessions import PROTOCOLS, Session, few, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.core.errors import SecureAggregationError
from fedeff.secure import Step
from fedeff.secure.client_session import ClientSession
from fedeff.secure.envelope import Label, opened, sealed
from fedeff.secure.messages import Begin, Revealed, RevealRequest, read, written
from fedeff.secure.protocols import client_side

EXCHANGES = [
    (step, way) for step in (Step.KEYS, Step.SHARES, Step.INPUT, Step.REVEAL) for way in ("down", "up")
]


class Changer:
    """Changes client 2's message of one exchange, and counts that it did."""

    def __init__(self, step: Step, way: str, change) -> None:
        self.step, self.way, self.change, self.count = step, way, change, 0

    def __call__(self, step: Step, way: str, client: int, message: bytes) -> bytes:
        if (step, way, client) != (self.step, self.way, 2):
            return message
        self.count += 1
        return self.change(message)


def assert_client_2_is_refused(session: Session) -> None:
    """It is as if it had not answered: the sum is the others', or still its own where it was in already."""
    found = session.run()
    assert found.tolist() == session.expected().tolist()
    assert [number for number, _ in session.refused] == [2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("step", "way"), EXCHANGES)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=8)
def test_a_message_with_one_byte_changed_is_refused(protocol, step, way, place, flip):
    def one_byte(message: bytes) -> bytes:
        at = int(place * len(message))
        return message[:at] + bytes([message[at] ^ flip]) + message[at + 1 :]

    changer = Changer(step, way, one_byte)
    session = Session(few(protocol, 4, 3), vectors_of(4), change=changer)
    assert_client_2_is_refused(session)
    assert changer.count == 1


@pytest.mark.parametrize("way", ["down", "up"])
def test_every_byte_of_the_first_messages_counts(way):
    """The ones that no key protects yet: whatever is changed, the server refuses the answer."""
    session = Session(few("secagg", 4, 3), vectors_of(4, 2))
    invitation = session.server.invitation(2)
    answer = session.answer(Step.KEYS, 2, invitation)
    message = invitation if way == "down" else answer
    for at in range(len(message)):
        changed = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        with pytest.raises(SecureAggregationError):
            session.server.take_keys(2, session.answer(Step.KEYS, 2, changed) if way == "down" else changed)
    assert session.server.keys == {}


@pytest.mark.parametrize(("step", "way"), EXCHANGES)
def test_cut_and_empty_messages_are_refused(step, way):
    for change in (lambda message: message[:-1], lambda message: b"", lambda message: message + b"\0"):
        assert_client_2_is_refused(
            Session(few("lightsecagg", 4, 3), vectors_of(4), change=Changer(step, way, change))
        )


@pytest.mark.parametrize(("step", "way"), EXCHANGES[1:])
def test_messages_of_another_client_round_or_session_are_refused(step, way):
    """Each is replayed in the place of client 2's own; all are well made for where they come from."""
    terms, vectors = few("secagg", 4, 3), vectors_of(4)
    earlier = Session(terms, vectors, server_round=2)
    earlier.run()
    session = Session(terms, vectors)
    replayed = [lambda _: earlier.sent[step, way, 2], lambda _: session.sent[step, way, 1]]
    for change in replayed:
        session = Session(terms, vectors, change=Changer(step, way, change))
        assert_client_2_is_refused(session)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_counts_once(protocol):
    session = Session(few(protocol, 4, 3), vectors_of(4))
    takes = {
        Step.KEYS: session.server.take_keys,
        Step.SHARES: session.server.take_shares,
        Step.INPUT: session.server.take_input,
        Step.REVEAL: session.server.take_revealed,
    }
    for step, _ in zip(takes, session.steps(), strict=False):
        for early in takes:
            if (early, "up", 3) in session.sent:
                with pytest.raises(SecureAggregationError, match=r"answered before|is not awaited"):
                    takes[early](3, session.sent[early, "up", 3])
        assert step
    assert session.server.total().tolist() == session.expected().tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_answers_each_step_once_and_in_order(protocol):
    session = Session(few(protocol, 4, 3), vectors_of(4))
    session.run()
    client = session.clients[1]
    for step, call in ((Step.SHARES, client.share), (Step.INPUT, client.asked), (Step.REVEAL, client.reveal)):
        with pytest.raises(SecureAggregationError, match="each step is answered once"):
            call(session.sent[step, "down", 1])
    with pytest.raises(SecureAggregationError, match="was not asked for, or was sent before"):
        client.masked(session.vectors[1])


def asked_to_reveal(protocol: str) -> Session:
    """A session whose clients have sent their inputs; client 4 is lost."""
    session = Session(few(protocol, 5, 3), vectors_of(5), {4: Step.INPUT})
    for _ in zip(range(3), session.steps(), strict=False):
        pass
    return session


@pytest.mark.parametrize(
    ("present", "lost", "said"),
    [
        ((1, 2, 3, 5), (3, 4), "both secrets of client 3"),
        ((2, 3, 5), (1, 4), "calls this client lost"),
        ((1, 2, 3, 5), (4, 9), "has not shared"),
        ((1, 2, 3, 3), (4,), "names a client twice"),
        ((1, 2), (3, 4, 5), "1 other clients are left"),
    ],
)
@pytest.mark.parametrize("protocol", ["lightsecagg", "secagg"])
def test_a_client_refuses_to_reveal_what_would_show_an_input(protocol, present, lost, said):
    session = asked_to_reveal(protocol)
    server, client = session.server, session.clients[1]
    server.step = Step.REVEAL
    with pytest.raises(SecureAggregationError, match=said):
        client.reveal(server._to(1, RevealRequest(present, lost, (), ())))
    with pytest.raises(SecureAggregationError, match="no share of client 2"):
        client.reveal(server._to(1, RevealRequest((1, 2, 3, 5), (), (), ())))


def test_a_share_that_another_client_sealed_is_refused_by_its_receiver():
    session = asked_to_reveal("secagg")
    server = session.server
    server.step = Step.REVEAL
    right = server._reveal(1)
    of_2, of_3 = (right.senders.index(n) for n in (2, 3))
    shares = list(right.shares)
    shares[of_2] = shares[of_3]
    wrong = RevealRequest(right.present, right.lost, right.senders, tuple(shares))
    with pytest.raises(SecureAggregationError, match="a message is of sender 3, expected 2"):
        session.clients[1].reveal(server._to(1, wrong))


@pytest.mark.parametrize("protocol", ["lightsecagg", "secagg"])
def test_a_wrong_answer_that_is_well_sealed_is_refused_by_the_sum(protocol):
    """A client that lies in the last step: others beyond the threshold, or a digest, give it away."""
    session = Session(few(protocol, 5, 3), vectors_of(5))
    for _ in zip(range(4), session.steps(), strict=False):
        pass
    honest = session.server.revealed[1]
    first = (int.from_bytes(honest.elements[:4], "little") + 1).to_bytes(4, "little")
    session.server.revealed[1] = Revealed(honest.owners, first + honest.elements[4:])
    with pytest.raises(SecureAggregationError, match="wrong"):
        session.server.total()


def test_a_client_declines_impossible_invitations():
    session = Session(few("secagg", 4, 3), vectors_of(4))
    begin = read(Begin, session.server.invitation(1))
    for change in ({"number": 9}, {"number": 0}, {"session": b"short"}, {"size": 0}):
        changed = written(Begin(**{**vars(begin), **change}))
        with pytest.raises(SecureAggregationError, match="expected a number from 1"):
            client_side("secagg")(ClientSession.fresh(changed))


def test_labels_say_what_differs():
    label = Label("secagg", Step.INPUT, bytes(16), 7, 3, 0)
    key = bytes(32)
    message = sealed(key, label, b"body")
    assert opened(key, label, message) == b"body"
    for name, other in (("round", 8), ("sender", 4), ("receiver", 1), ("session", b"1" * 16)):
        changes = {"server_round": other} if name == "round" else {name: other}
        with pytest.raises(SecureAggregationError, match=f"a message is of {name}"):
            opened(key, Label(**{**vars(label), **changes}), message)
    with pytest.raises(SecureAggregationError, match="client 3 in step INPUT was changed on the way"):
        opened(bytes(31) + b"1", label, message)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_server_never_holds_what_a_client_keeps_secret(protocol):
    """What can be reached from the server's object, after each step: neither seed nor key nor vector."""
    vectors = vectors_of(4, 40)
    session = Session(few(protocol, 4, 3), vectors, {4: Step.INPUT})
    for _ in session.steps():
        held = b"\0".join(_bytes_in(session.server, set()))
        for number, client in session.clients.items():
            kept = client.kept
            for secret in (kept.seed, kept.messages_key, kept.masks_key, kept.own_share or kept.seed):
                assert secret not in held, number
            assert vectors[number].astype("<u4").tobytes() not in held
            assert vectors[number].tobytes() not in held
    assert (
        session.clients[1].kept.invitation in held
        or session.server.invitation(1) == session.sent[Step.KEYS, "down", 1]
    )


def _bytes_in(value: object, seen: set[int]):
    """Every bytes and array that can be reached."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
        yield value.astype("<u4").tobytes()
    elif isinstance(value, dict):
        for one in (*value.keys(), *value.values()):
            yield from _bytes_in(one, seen)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _bytes_in(one, seen)
    elif hasattr(value, "__dict__"):
        yield from _bytes_in(vars(value), seen)
