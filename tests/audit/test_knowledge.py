"""What is known of coded arrays: which entries, and a deviation that covers the real error."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.audit.capturing.knowledge import Knowledge, Past, knowledge_of
from fedeff.compression import codec_names, codec_of, pack
from fedeff.compression.top_k import kept_count
from fedeff.compression.wire import Entry, entries
from fedeff.core.errors import AuditError

Arrays = dict[str, Any]


class Channel:
    """A sender with its memories and what a receiver knows of each message."""

    def __init__(self, spec: str, seed: int) -> None:
        self.codec, self.rng = codec_of(spec), np.random.default_rng(seed)
        self.memories: dict[str, Any] = {}
        self.past: dict[str, Past] = {}

    def sent(self, arrays: Arrays) -> dict[str, Knowledge]:
        blob, self.memories = pack(arrays, self.codec, self.memories, self.rng)
        found = {}
        for entry in entries(blob, self.codec, None, 2**30):
            found[entry.name], self.past[entry.name] = knowledge_of(entry, self.past.get(entry.name, Past()))
        return found


def ratio(known: Knowledge, x: Any) -> float:
    """The root mean square of the real error over the deviation that was told, at known entries."""
    mask = np.ones(x.shape, bool) if known.known is None else known.known
    told = np.sqrt(np.mean(np.square(np.broadcast_to(known.std, x.shape)[mask])))
    return float(np.sqrt(np.mean(np.square((known.values - x)[mask]))) / told)


NOISY = [
    "half", 'half("bfloat16")', "uniform(8)", "uniform(4)", "uniform(2)", "uniform(1)", "qsgd",
    'qsgd(7, 512, "max")', "qsgd(1, 64)", "tern_grad", "sign", "power_sgd(2)",
    "chain(top_k(0.1), uniform(4))", "chain(random_k(0.2), uniform(4))", "chain(random_k(0.2), qsgd)",
    'per_layer({"other": raw, "*": uniform(4)})', "ef21(uniform(4))",
]  # fmt: skip


@pytest.mark.parametrize("spec", NOISY)
@pytest.mark.parametrize("shape", ["normal", "laplace"])
def test_the_deviation_is_that_of_the_real_error(spec, shape):
    x = getattr(np.random.default_rng(0), shape)(size=(120, 50)).astype(np.float32)
    known = Channel(spec, 1).sent({"w": x})["w"]
    assert 0.6 < ratio(known, x) < 1.1


@pytest.mark.parametrize(
    ("spec", "count"), [("top_k(0.1)", 600), ("random_k(0.3)", 1800), ("random_k(0.3, unbiased=False)", 1800)]
)
def test_entries_that_travel_are_known_exactly_and_no_others(spec, count):
    x = np.random.default_rng(2).normal(size=(60, 100)).astype(np.float32)
    known = Channel(spec, 3).sent({"w": x})["w"]
    assert known.known.sum() == count == kept_count(x.size, count / x.size)
    np.testing.assert_allclose(known.values[known.known], x[known.known], rtol=3e-7)
    assert not np.any(known.std)
    if spec.startswith("top_k"):
        assert np.abs(x[known.known]).min() >= np.abs(x[~known.known]).max()


@given(seed=st.integers(0, 2**32 - 1), spec=st.sampled_from(["top_k(0.3)", "random_k(0.5, unbiased=False)"]))
def test_under_error_feedback_what_is_said_to_be_known_is_of_this_message_alone(seed, spec):
    channel, rng = Channel(f"error_feedback({spec})", seed), np.random.default_rng(seed)
    before = None
    for turn in range(4):
        x = rng.normal(size=40).astype(np.float32)
        known = channel.sent({"w": x})["w"]
        np.testing.assert_allclose(known.values[known.known], x[known.known], atol=1e-6)
        sent = np.abs(known.values) > 0
        expected = sent if before is None else sent & before
        np.testing.assert_array_equal(known.known, expected, err_msg=f"message {turn}")
        before = sent


@pytest.mark.parametrize("spec", ["sign", "chain(top_k(0.5), uniform(4))", "uniform(3)"])
def test_what_lossy_error_feedback_owed_widens_the_deviation(spec):
    channel, rng = Channel(f"error_feedback({spec})", 5), np.random.default_rng(6)
    first = channel.sent({"w": rng.normal(size=4000).astype(np.float32)})["w"]
    x = rng.normal(size=4000).astype(np.float32)
    second = channel.sent({"w": x})["w"]
    assert 0.6 < ratio(second, x) < 1.1
    assert np.mean(second.std) > np.mean(first.std)


@pytest.mark.parametrize(
    "spec",
    [
        "top_k(0.1)",
        "ef21(top_k(0.1))",
        "error_feedback(top_k(0.3))",
        "chain(top_k(0.1), uniform(8))",
        "chain(top_k(0.3), uniform(2))",
        "chain(top_k(0.3), tern_grad)",
        "error_feedback(chain(top_k(0.3), uniform(8)))",
    ],
)
def test_what_top_k_left_out_lies_within_its_bound(spec):
    channel, rng = Channel(spec, 20), np.random.default_rng(21)
    for turn in range(4):
        x = rng.normal(size=(30, 20)).astype(np.float32)
        known = channel.sent({"w": x})["w"]
        left_out = ~known.known
        within = np.broadcast_to(known.within, x.shape)[left_out]
        assert np.all(np.abs(x - known.values)[left_out] <= within * (1 + 1e-6)), turn
        assert np.all(within < 2 * np.abs(x).max()), turn  # it says something
        if spec == "top_k(0.1)":
            np.testing.assert_array_equal(within, np.abs(x[known.known]).min())


def test_what_was_left_out_by_chance_has_no_bound():
    x = np.random.default_rng(22).normal(size=50).astype(np.float32)
    for spec in (
        "random_k(0.5)",
        "chain(random_k(0.5), uniform(8))",
        "error_feedback(random_k(0.5, unbiased=False))",
    ):
        known = Channel(spec, 23).sent({"w": x})["w"]
        assert np.all(np.isinf(np.broadcast_to(known.within, x.shape)[~known.known]))


def test_ef21_tells_the_entries_that_it_corrects():
    channel, rng = Channel("ef21(top_k(0.2))", 7), np.random.default_rng(8)
    for _ in range(3):
        x = rng.normal(size=(10, 10)).astype(np.float32)
        known = channel.sent({"w": x})["w"]
        assert known.known.sum() == 20
        np.testing.assert_allclose(known.values[known.known], x[known.known], atol=1e-6)


def test_a_matrix_of_low_rank_is_told_exactly_by_power_sgd():
    rng = np.random.default_rng(9)
    x = np.outer(rng.normal(size=40), rng.normal(size=30)).astype(np.float32)
    known = Channel("power_sgd(2)", 10).sent({"w": x, "b": x[0]})
    assert np.max(known["w"].std) < 1e-5 * np.abs(x).max()
    np.testing.assert_allclose(known["w"].values, x, atol=1e-5 * np.abs(x).max())
    assert known["b"].std == 0.0  # vectors travel raw


def test_integers_are_told_exactly():
    known = Channel("tern_grad", 11).sent({"n": np.array(41)})["n"]
    assert (known.values, known.known, known.std) == (41, None, 0.0)


def test_no_codec_is_forgotten():
    x = {"w": np.random.default_rng(12).normal(size=(20, 20)).astype(np.float32)}
    examples = {
        "chain": "chain(top_k(0.1), uniform(4))",
        "ef21": "ef21(sign)",
        "error_feedback": "error_feedback(sign)",
        "per_layer": 'per_layer({"*": raw})',
        "random_k": "random_k(0.1)",
        "top_k": "top_k(0.1)",
    }
    for name in codec_names():
        assert Channel(examples.get(name, name), 13).sent(x)["w"].values.shape == (20, 20)


def test_an_unknown_codec_is_an_error():
    class Rot13:
        name = "rot13"

    entry = Entry("w", (1,), np.dtype(np.float32), Rot13(), memoryview(b""))  # type: ignore[arg-type]
    with pytest.raises(AuditError, match="what codec 'rot13' hides"):
        knowledge_of(entry, Past())
