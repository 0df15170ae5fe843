"""Weighted sums: hand-computed means, every refusal, and that order and splits do not matter."""

import itertools
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as StockFedAvg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedeff.core.errors import ConfigError, ReplyError
from fedeff.core.layers import decode_record, encode_record
from fedeff.strategies.weighted_sum import (
    Refusal,
    Total,
    WeightedSum,
    add_scaled,
    in_partition_order,
    layout_of,
    mean,
    metric_means,
    read_update,
)

MODEL = encode_record({"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)})
FOLD = WeightedSum(layout_of(MODEL))


def model(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": (scale * rng.normal(size=(2, 3))).astype(np.float32),
        "b": (scale * rng.normal(size=2)).astype(np.float32),
    }


def summed(replies, fold=FOLD):
    total = None
    for reply in replies:
        total = fold.add(total, reply)
    return total


@pytest.fixture
def cohort(make_reply):
    """Replies of twelve clients with unlike weights."""
    return [
        make_reply(partition, model(partition), 1 + partition % 5, metrics={"train-loss": 0.1 * partition})
        for partition in range(12)
    ]


# --- means ----------------------------------------------------------------------------------------


def test_a_mean_by_hand(make_reply):
    one = {"w": np.full((2, 3), 1, np.float32), "b": np.array([0, 4], np.float32)}
    two = {"w": np.full((2, 3), 5, np.float32), "b": np.array([8, 0], np.float32)}
    total = summed([make_reply(0, one, 3), make_reply(1, two, 1)])
    means = FOLD.mean(total)
    assert means["w"].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert means["b"].tolist() == [2, 3]
    assert (total.weight, total.replies) == (4, 2)
    assert [values.dtype for values in total.sums.values()] == [np.float64] * 2


def test_metrics_by_hand(make_reply):
    replies = [
        make_reply(0, model(0), 3, metrics={"loss": 1.0, "steps": 4}),
        make_reply(1, model(1), 1, metrics={"loss": 5.0, "rare": 7.0, "curve": [1.0, 2.0]}),
    ]
    assert metric_means(summed(replies)) == {"loss": 2.0, "rare": 7.0, "steps": 4.0}


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int64", [2, 3], 3),  # (2 + 3 * 3) / 4 = 2.75
        ("bool", [False, True], True),
        ("float16", [2, 3], 2.75),
        ("float64", [2, 3], 2.75),
        (">f4", [2, 3], 2.75),
    ],
)
def test_means_come_in_the_model_s_dtype(make_reply, dtype, values, expected):
    low, high = ({"n": np.array(value, dtype)} for value in values)
    fold = WeightedSum(layout_of(encode_record(low)))
    means = fold.mean(summed([make_reply(0, low, 1), make_reply(1, high, 3)], fold))
    assert means["n"].dtype == np.dtype(dtype).newbyteorder("=")
    assert isinstance(means["n"], np.ndarray)
    assert means["n"] == expected


def test_a_mean_of_equal_models_is_that_model_bit_for_bit(make_reply):
    values = model(4, scale=1e-3)
    means = FOLD.mean(summed([make_reply(i, values, i + 1) for i in range(7)]))
    assert all(np.array_equal(means[key], values[key]) for key in values)


def test_nothing_valid_has_no_mean(make_reply):
    total = FOLD.add(None, make_reply(0, model(0), 0))
    for empty in (Total(), total):
        with pytest.raises(ReplyError, match="no valid reply"):
            mean(empty, FOLD.layout)


def test_weights_that_are_no_whole_numbers_count_too(make_reply):
    total = summed([make_reply(0, model(0), 0.25), make_reply(1, model(1), 0.75)])
    expected = 0.25 * model(0)["w"].astype(float) + 0.75 * model(1)["w"].astype(float)
    assert total.weight == 1
    np.testing.assert_allclose(total.sums["w"], expected, rtol=1e-15)


def test_it_agrees_with_flower_s_fedavg(cohort):
    arrays, metrics = StockFedAvg().aggregate_train(1, cohort)
    total = summed(cohort)
    for key, values in decode_record(arrays).items():
        np.testing.assert_allclose(FOLD.mean(total)[key], values, rtol=1e-6, atol=1e-6)
    assert metric_means(total)["train-loss"] == pytest.approx(metrics["train-loss"], rel=1e-12)


@given(
    values=hnp.arrays(
        st.sampled_from(["f4", "f8", "f2", ">f4", "i4"]),
        hnp.array_shapes(min_dims=0, min_side=0),
        elements=st.integers(-1000, 1000),
    ),
    weight=st.integers(1, 1000),
    length=st.integers(1, 9),
)
def test_add_scaled_is_a_multiply_and_an_add(values, weight, length):
    total = np.arange(values.size, dtype=np.float64).reshape(values.shape)
    expected = total + values.astype(np.float64) * weight
    before = values.copy()
    add_scaled(total, values, weight, np.empty(length))
    assert np.array_equal(total, expected)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("size", [32_767, 32_768, 32_769, 100_000])
def test_large_arrays_are_summed_to_the_last_entry(make_reply, size):
    values = {"w": np.random.default_rng(size).normal(size=size).astype(np.float32)}
    fold = WeightedSum(layout_of(encode_record(values)))
    total = summed([make_reply(0, values, 3), make_reply(1, values, 2)], fold)
    wide = values["w"].astype(np.float64)
    assert np.array_equal(total.sums["w"], wide * 3 + wide * 2)


def test_fortran_ordered_arrays_are_added_by_index_not_by_memory():
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    total = np.zeros((2, 3))
    add_scaled(total, values, 2.0, np.empty(4))
    assert np.array_equal(total, 2 * values)


# --- order and splits -----------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_a_list_of_replies_does_not_matter_bit_for_bit(make_reply, seed):
    rng = np.random.default_rng(seed)
    replies = [make_reply(p, model(p, scale=10.0 ** rng.integers(-6, 6)), 1 + p) for p in range(6)]
    shuffled = [replies[i] for i in rng.permutation(6)]
    one, two = (summed(in_partition_order(order)) for order in (replies, shuffled))
    assert all(np.array_equal(one.sums[key], two.sums[key]) for key in one.sums)
    assert one.metrics == two.metrics


def test_replies_without_a_partition_come_last_by_node(make_reply):
    replies = [
        make_reply(None, model(0), node=9),
        make_reply(4, model(0)),
        make_reply(None, model(0), node=2),
    ]
    replies += [make_reply(0, model(0))]
    assert [one.metadata.src_node_id for one in in_partition_order(replies)] == [10_000, 9_996, 2, 9]


def test_a_stream_is_taken_one_by_one_in_the_order_it_has(make_reply):
    taken = []

    def stream():
        for partition in (3, 1, 2):
            taken.append(partition)
            yield make_reply(partition, model(partition))

    replies = in_partition_order(stream())
    assert taken == []
    next(replies)
    assert taken == [3]


@given(cuts=st.sets(st.integers(1, 11)))
def test_blocks_summed_apart_and_merged_agree_with_one_sum(make_reply, cuts):
    replies = [make_reply(p, model(p), 1 + p % 5, metrics={"loss": 0.1 * p}) for p in range(12)]
    edges = [0, *sorted(cuts), 12]
    blocks = [summed(replies[a:b]) for a, b in itertools.pairwise(edges)]
    total = pickle.loads(pickle.dumps(blocks[0]))
    for block in blocks[1:]:
        total = FOLD.merge(total, block)
    one = summed(replies)
    assert (total.weight, total.replies) == (one.weight, one.replies)
    for key, values in one.sums.items():
        np.testing.assert_allclose(total.sums[key], values, rtol=1e-12, atol=1e-12)
    assert metric_means(total) == pytest.approx(metric_means(one), rel=1e-12)


def test_merge_copes_with_read_only_arrays_and_leaves_the_other_as_it_is(make_reply):
    one, other = summed([make_reply(0, model(0))]), summed([make_reply(1, model(1))])
    for total in (one, other):
        for values in total.sums.values():
            values.flags.writeable = False
    before = pickle.dumps(other)
    merged = FOLD.merge(Total(), other)
    merged = FOLD.merge(FOLD.merge(one, merged), other)
    assert pickle.dumps(other) == before
    np.testing.assert_array_equal(
        merged.sums["b"], model(0)["b"].astype(float) + 2 * model(1)["b"].astype(float)
    )


# --- refusals -------------------------------------------------------------------------------------


def spoilt(**changes) -> dict[str, np.ndarray]:
    return {key: values for key, values in {**model(1), **changes}.items() if values is not None}


NAN = np.array([0, np.nan], np.float32)
INF = np.array([np.inf, -np.inf], np.float32)
BAD_ARRAYS = {
    "a key too few": (spoilt(b=None), "missing ['b']"),
    "a key too many": (spoilt(c=np.zeros(1, np.float32)), "unexpected ['c']"),
    "another shape": (spoilt(b=np.zeros(3, np.float32)), "'b' has shape (3,), expected (2,)"),
    "a shape that broadcasts": (spoilt(b=np.zeros(1, np.float32)), "'b' has shape (1,)"),
    "another dtype": (spoilt(b=np.zeros(2)), "'b' has dtype float64, expected float32"),
    "NaN": (spoilt(b=NAN), "'b' holds NaN or infinity"),
    "infinities that cancel": (spoilt(b=INF), "'b' holds NaN or infinity"),
}
BAD_WEIGHTS = {
    "no weight": (None, "'num-examples' is None"),
    "a list as weight": ([3, 4], "expected one number"),
    "no examples": (0, "'num-examples' is 0, expected a positive"),
    "fewer than no examples": (-2, "'num-examples' is -2"),
    "NaN as weight": (float("nan"), "'num-examples' is nan"),
    "infinite weight": (float("inf"), "'num-examples' is inf"),
}


def assert_refused(reply, reason: str, good) -> None:
    total = FOLD.add(summed(good), reply)
    assert len(total.refused) == 1
    assert reason in total.refused[0].reason
    assert total.refused[0].node_id == reply.metadata.src_node_id
    expected = summed(good)
    assert (total.weight, total.replies, total.metrics) == (
        expected.weight,
        expected.replies,
        expected.metrics,
    )
    assert all(np.array_equal(total.sums[key], expected.sums[key]) for key in expected.sums)


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_do_not_fit_add_nothing(make_reply, cohort, case):
    arrays, reason = BAD_ARRAYS[case]
    assert_refused(make_reply(50, arrays, metrics={"train-loss": 1.0}), reason, cohort)


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_a_reply_without_a_positive_weight_adds_nothing(make_reply, cohort, case):
    weight, reason = BAD_WEIGHTS[case]
    assert_refused(make_reply(50, model(1), weight), reason, cohort)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"nonsense", "cut", "lies", "pickle"])
def test_bytes_that_cannot_be_read_add_nothing(make_reply, cohort, damage):
    sound = MODEL["b"].data
    data = {
        "cut": sound[:-1],
        "lies": sound.replace(b"(2,)", b"(9,)"),
        "pickle": sound.replace(b"'<f4'", b"'|O' "),
    }.get(damage, damage)
    record = ArrayRecord({"w": MODEL["w"], "b": Array("float32", (2,), "numpy.ndarray", data)})
    assert_refused(make_reply(50, record), "'b' cannot be read", cohort)


def test_other_records_than_asked_for_add_nothing(make_reply, cohort):
    for content, reason in [
        (RecordDict({"m": MetricRecord({"num-examples": 1})}), "0 ArrayRecords"),
        (RecordDict({"a": MODEL, "c": ConfigRecord()}), "0 MetricRecords"),
        (RecordDict({"a": MODEL, "b": MODEL, "m": MetricRecord({"num-examples": 1})}), "2 ArrayRecords"),
    ]:
        reply = make_reply(50, model(0))
        reply.content = content
        assert_refused(reply, reason, cohort)


def test_an_error_adds_nothing(make_error, cohort):
    assert_refused(make_error(50, "out of\n memory"), "the client failed: out of memory", cohort)


def test_a_refusal_says_who_and_why_in_one_line(make_reply):
    total = FOLD.add(None, make_reply(5, spoilt(b=NAN), node=77))
    assert total.refused == [Refusal(77, 5, "array 'b' holds NaN or infinity")]


def test_large_finite_values_are_not_taken_for_infinity(make_reply):
    values = spoilt(b=np.array([3e38, 3e38], np.float32))
    assert read_update(make_reply(0, values), FOLD.layout, "num-examples").arrays["b"][0] > 1e38


def test_names_of_records_and_order_of_keys_are_the_client_s_own(make_reply):
    reply = make_reply(0, dict(reversed(model(3).items())))
    reply.content = RecordDict(
        {
            "mine": next(iter(reply.content.array_records.values())),
            "numbers": MetricRecord({"num-examples": 1}),
        }
    )
    total = FOLD.add(None, reply)
    assert not total.refused
    assert list(FOLD.mean(total)) == ["w", "b"]


def test_another_weight_can_be_chosen(make_reply):
    fold = WeightedSum(FOLD.layout, weighted_by="tokens")
    total = fold.add(None, make_reply(0, model(0), 3, metrics={"tokens": 40}))
    assert (total.weight, metric_means(total)) == (40, {"num-examples": 3.0})


def test_a_model_of_complex_numbers_is_refused_before_it_is_sent():
    with pytest.raises(ConfigError, match="'spectrum' has dtype complex64"):
        layout_of(encode_record({"spectrum": np.zeros(2, np.complex64)}))


def test_fold_and_total_travel_between_processes(cohort):
    total = summed(cohort)
    fold, back = pickle.loads(pickle.dumps((FOLD, total)))
    assert fold == FOLD
    assert all(np.array_equal(back.sums[key], total.sums[key]) for key in total.sums)
