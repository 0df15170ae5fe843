"""Which message a reply answers, and what displacements come to."""

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_ins_message

from fedeff.core.flower import set_message_id
from fedeff.core.layers import encode_record
from fedeff.strategies.displacement import added, mean_displacement, moved, needs_full
from fedeff.strategies.epochs import Epoch, Task
from fedeff.strategies.under_way import Sent, UnderWay
from fedeff.strategies.weighted_sum import Total, layout_of


def message(node: int, key: str = "") -> Message:
    made = Message(RecordDict(), dst_node_id=node, message_type="train")
    if key:
        set_message_id(made, key)
    return made


def test_messages_are_known_by_the_id_they_get_when_they_are_sent():
    under_way: UnderWay[str] = UnderWay()
    made = message(7)
    under_way.add(made, "first")
    assert (len(under_way), under_way.ids(lambda note: True)) == (1, set())
    set_message_id(made, "a")
    assert under_way.ids(lambda note: note == "first") == {"a"}
    assert list(under_way) == [Sent(7, "first")]
    reply = Message(Error(code=1, reason="gone"), reply_to=made)
    assert under_way.take(reply) == Sent(7, "first")
    assert under_way.take(reply) is None
    assert len(under_way) == 0


def test_what_is_given_up_is_no_longer_known_sent_or_not():
    under_way: UnderWay[int] = UnderWay()
    for note in range(4):
        under_way.add(message(note, f"m{note}" if note % 2 else ""), note)
    lost = under_way.give_up(lambda note: note >= 2)
    assert sorted(sent.note for sent in lost) == [2, 3]
    assert sorted(sent.note for sent in under_way) == [0, 1]
    assert under_way.take(Message(RecordDict(), reply_to=message(3, "m3"))) is None


def answer(node: int, key: str) -> Message:
    return Message(RecordDict(), reply_to=message(node, key))


def test_what_is_given_up_is_unanswered_until_its_node_answers():
    under_way: UnderWay[int] = UnderWay()
    for note, node in enumerate((7, 7, 7, 8)):
        under_way.add(message(node, f"m{note}"), note)
    assert under_way.unanswered() == {7: 3, 8: 1}
    under_way.give_up(lambda note: note < 2)
    assert under_way.unanswered() == {7: 3, 8: 1}
    assert under_way.take(answer(7, "m0")) is None
    assert under_way.unanswered() == {7: 2, 8: 1}
    assert under_way.take(answer(7, "m0")) is None
    assert under_way.unanswered() == {7: 2, 8: 1}


@pytest.mark.parametrize(("answered", "left"), [("m1", 2), ("m2", 1), ("m3", 0)])
def test_a_node_that_answers_a_message_has_lost_those_before_it(answered, left):
    """The first three are given up, the last is under way."""
    under_way: UnderWay[int] = UnderWay()
    for note in range(4):
        under_way.add(message(7, f"m{note}"), note)
        under_way.give_up(lambda note: note < 3)
    under_way.take(answer(7, answered))
    assert under_way.unanswered()[7] == left


def test_an_error_that_names_no_node_is_an_answer_of_the_node_that_was_asked():
    under_way: UnderWay[int] = UnderWay()
    under_way.add(message(7, "m"), 0)
    under_way.give_up(lambda note: True)
    under_way.take(create_message_error_unavailable_ins_message("m", run_id=1))
    assert not under_way.unanswered()


def test_a_message_that_was_never_sent_is_not_owed():
    under_way: UnderWay[int] = UnderWay()
    under_way.add(message(7), 0)
    assert under_way.unanswered() == {7: 1}
    under_way.give_up(lambda note: True)
    assert not under_way.unanswered()


def test_an_epoch_brings_each_mean_once():
    epoch = Epoch(cycle=4)
    tasks = [epoch.next_task(period, horizon=period - 3) for period in (4, 5, 7)]
    assert tasks == [Task(4, 4, 0, None, ()), Task(5, 4, 1, 4, ()), Task(7, 4, 2, 5, (0,))]
    assert epoch.next_task(8, horizon=5) == Task(8, 4, 3, 7, (1,))


ARRAYS = {"w": np.array([1.0, 2.0], np.float32), "n": np.array([10, 20])}
LAYOUT = layout_of(encode_record(ARRAYS))


def test_mean_displacements_by_hand_whole_for_integers():
    total = Total(weight=4.0, sums={"w": np.array([1.0, 2.0]), "n": np.array([5.0, -3.0])})
    mean = mean_displacement(total, LAYOUT)
    assert {key: values.tolist() for key, values in mean.items()} == {"w": [0.25, 0.5], "n": [1.0, -1.0]}
    after = moved(ARRAYS, mean)
    assert {key: values.tolist() for key, values in after.items()} == {"w": [1.25, 2.5], "n": [11, 19]}
    assert {key: values.dtype for key, values in after.items()} == {"w": np.float32, "n": np.int64}
    assert moved(ARRAYS, mean, 2.0)["w"].tolist() == [1.5, 3.0]
    assert moved(ARRAYS, mean, 0.75)["n"].tolist() == [11, 19]


def test_sums_of_displacements_come_in_the_model_s_dtypes():
    mean = {"w": np.array([0.25, 0.5]), "n": np.array([1.0, -1.0])}
    total = added([mean, mean], LAYOUT)
    assert {key: values.tolist() for key, values in total.items()} == {"w": [0.5, 1.0], "n": [2, -2]}
    assert [values.dtype for values in total.values()] == [np.float32, np.int64]
    assert added([], LAYOUT)["n"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("metrics", "expected"), [({"need-full": 1}, True), ({"need-full": 0}, False), ({}, False)]
)
def test_a_client_says_that_it_needs_the_whole_model(metrics, expected):
    reply = Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message(1, "m"))
    assert needs_full(reply) is expected
