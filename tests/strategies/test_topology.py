"""Hierarchical local SGD: topologies, words by formula and by a ring, means of groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record
from fedeff.strategies.hierarchical import Topology, mean_of_groups, words_flat, words_sliced


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


# --- topologies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", [0, 0, 0, 0, 0]),
        ("3", [0, 1, 2, 0, 1]),
        ("0-2:0,3-4:1", [0, 0, 0, 1, 1]),
        (" 4:0 , 0-3:1 ", [1, 1, 1, 1, 0]),
        ("0:2\n1-2:0\n3-4:1", [2, 0, 0, 1, 1]),
    ],
)
def test_topologies_by_hand(text, expected):
    assert [Topology.read(text).group_of(partition) for partition in range(5)] == expected


def test_a_topology_from_a_file(tmp_path):
    path = tmp_path / "sites.txt"
    path.write_text("# Bern\n0-2:0\n3:1, 5:1  # Basel\n\n4:0\n")
    groups = [Topology.read(f"file:{path}").group_of(partition) for partition in range(6)]
    assert groups == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "0 groups; expected 1 or more"),
        ("", "the topology names no client"),
        ("0-3", "entry '0-3' is neither"),
        ("0-3=1", "entry '0-3=1' is neither"),
        ("3-1:0", "entry '3-1:0' is empty"),
        ("0-3:0,2:1", "entry '2:1' is empty or names a partition a second time"),
        ("0:0,1:2", r"3 groups puts clients into groups \[0, 2\]"),
        ("file:/nowhere/sites", "file /nowhere/sites cannot be read"),
    ],
)
def test_texts_that_are_no_topology_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Topology.read(text)


# --- words ----------------------------------------------------------------------------------------


def ring_words(slices: int, workers: int) -> int:
    """Words that each worker sends in a ring all-reduce of one word a slice, counted as it runs."""
    values = [[float(worker * slices + part) for part in range(slices)] for worker in range(workers)]
    expected = np.sum(values, axis=0)
    sent, per = [0] * workers, slices // workers

    def pass_on(step, offset, combine):
        packets = []
        for worker in range(workers):
            chunk = (worker + offset - step) % workers
            part = range(chunk * per, (chunk + 1) * per)
            packets.append(((worker + 1) % workers, part, [values[worker][i] for i in part]))
            sent[worker] += per
        for receiver, part, words in packets:
            for i, word in zip(part, words, strict=True):
                values[receiver][i] = combine(values[receiver][i], word)

    for step in range(workers - 1):
        pass_on(step, 0, lambda own, word: own + word)
    for step in range(workers - 1):
        pass_on(step, 1, lambda own, word: word)
    assert np.array_equal(values, [expected] * workers)
    assert len(set(sent)) == 1
    return sent[0]


@pytest.mark.parametrize(("groups", "members"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 3), (3, 8)])
def test_words_are_those_that_a_ring_and_a_gather_send(groups, members):
    words = 24 * groups * members
    assert words_flat(words, groups * members) == ring_words(words, groups * members)
    in_slices = ring_words(words // members, groups)
    gathered = (members - 1) * (words // members)  # a ring gather hands every other member's slice on
    assert words_sliced(words, groups, members) == in_slices + gathered


@given(parameters=st.integers(1, 10**8), groups=st.integers(1, 64), members=st.integers(1, 64))
def test_words_by_the_formulas(parameters, groups, members):
    d, g, m, p = parameters, groups, members, groups * members
    assert words_flat(d, p) == pytest.approx(2 * (p - 1) / p * d)
    assert words_sliced(d, g, m) == pytest.approx(2 * (g - 1) / g * d / m + (m - 1) / m * d)
    assert words_sliced(d, g, m) <= words_flat(d, p) * (1 + 1e-12)


# --- the mean of groups ---------------------------------------------------------------------------


def test_a_mean_of_groups_by_hand():
    models = [encode_record({"w": np.array([low], np.float32)}) for low in (1, 5, 100)]
    assert decode_record(mean_of_groups(models, [3.0, 1.0, 0.0]))["w"].tolist() == [2.0]
    assert mean_of_groups(models, [0.0, 0.0, 0.0]) is None
    whole = [encode_record({"n": np.array([low])}) for low in (1, 2)]
    assert decode_record(mean_of_groups(whole, [1.0, 3.0]))["n"].tolist() == [2]


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 6), dtype=st.sampled_from(["f4", "f8"]))
def test_a_mean_of_equal_models_is_that_model_bit_for_bit(seed, groups, dtype):
    rng = np.random.default_rng(seed)
    model = encode_record({"w": rng.normal(size=5).astype(dtype)})
    assert same(mean_of_groups([model] * groups, rng.uniform(0.1, 9, groups).tolist()), model)


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 6))
def test_a_mean_of_groups_is_the_weighted_mean(seed, groups):
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(groups, 5)), rng.integers(0, 4, groups).astype(float)
    mean = mean_of_groups([encode_record({"w": one}) for one in values], weights.tolist())
    if weights.sum() == 0:
        assert mean is None
        return
    expected = np.average(values, axis=0, weights=weights)
    np.testing.assert_allclose(decode_record(mean)["w"], expected, rtol=1e-12, atol=1e-12)
