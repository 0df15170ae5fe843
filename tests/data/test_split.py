import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.data import Dataset, Partition, Scheme, Split, load, parse_scheme, scheme_names, split, split_test
from fedeff.data.dirichlet import deal_by_mix
from fedeff.data.quantity import _round_to_sum
from fedeff.data.shards import _apportion

SPECS = ("iid", "dirichlet:0.3", "dirichlet:0.01", "shards:2", "shards:3", "quantity:1.0", "quantity:0")
BALANCED = np.arange(6_000) % 10


def skew(partition: Partition, labels: np.ndarray, classes: int = 10) -> float:
    """Mean distance in total variation from the mix of all rows: 0 if alike, towards 1 if apart."""
    mixes = partition.class_counts(labels, classes) / partition.sizes[:, np.newaxis]
    return float(np.abs(mixes - np.bincount(labels, minlength=classes) / len(labels)).sum(1).mean() / 2)


def as_lists(partition):
    return [rows.tolist() for rows in partition]


@given(
    spec=st.sampled_from(SPECS),
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=120),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_row_has_one_owner_and_nobody_is_left_empty(spec, labels, share, seed):
    labels = np.array(labels)
    clients = max(1, int(share * len(labels)))
    if spec.startswith("shards") and clients * int(spec[-1]) < len(np.unique(labels)):
        clients = len(np.unique(labels))
    partition = split(labels, spec, clients, seed)
    assert len(partition) == clients
    assert sorted(partition.rows.tolist()) == list(range(len(labels)))
    assert partition.sizes.min() >= 1
    assert as_lists(split(labels, spec, clients, seed)) == as_lists(partition)
    if spec.startswith(("iid", "dirichlet", "quantity:0")):
        assert partition.sizes.max() - partition.sizes.min() <= 1
    if spec.startswith("shards"):
        assert ((partition.class_counts(labels, 6) > 0).sum(1) <= int(spec[-1])).all()


@given(
    spec=st.sampled_from(SPECS),
    rows=st.integers(1, 20),
    clients=st.integers(21, 60),
    seed=st.integers(0, 1_000),
)
def test_empty_clients_only_where_allowed(spec, rows, clients, seed):
    labels = np.arange(rows) % 4
    with pytest.raises(
        ConfigError, match=rf"{clients} clients but {rows} samples; use at most {rows} clients"
    ):
        split(labels, spec, clients, seed)
    partition = split(labels, spec, clients, seed, allow_empty=True)
    assert sorted(partition.rows.tolist()) == list(range(rows))
    assert len(partition) == clients


@pytest.mark.parametrize("spec", SPECS)
def test_another_seed_is_another_partition(spec):
    assert as_lists(split(BALANCED, spec, 50, 1)) != as_lists(split(BALANCED, spec, 50, 2))


@pytest.mark.parametrize("spec", SPECS)
def test_a_client_is_not_in_the_order_of_the_file(spec):
    """Rows of a real file may be sorted; a client number must not say which part it got."""
    first = split(BALANCED, spec, 10, 0)[0]
    assert 2_500 < first.mean() < 3_500


def test_a_large_concentration_is_like_iid_and_a_small_one_is_far_from_it():
    iid = skew(split(BALANCED, "iid", 60, 0), BALANCED)
    seen = [skew(split(BALANCED, f"dirichlet:{a}", 60, 0), BALANCED) for a in (1e4, 1, 0.1, 0.01)]
    assert abs(seen[0] - iid) < 0.02
    assert seen == sorted(seen)
    assert seen[-1] > 0.7


def test_dirichlet_mixes_have_the_moments_of_the_distribution():
    """A class's share has variance (1/K)(1 - 1/K)/(K alpha + 1), and a draw of n rows adds its own."""
    clients, size, alpha, classes = 400, 100, 0.5, 10
    labels = np.arange(10 * clients * size) % classes  # ten times what is dealt: hardly a class runs out
    mix = np.random.default_rng(0).dirichlet([alpha] * classes, clients)
    dealt = deal_by_mix(labels, mix, np.full(clients, size), np.random.default_rng(1))
    shares = dealt.class_counts(labels, classes) / size
    of_mix = (0.1 * 0.9) / (classes * alpha + 1)
    expected = of_mix + (0.1 * 0.9 - of_mix) / size
    assert abs(shares.var() / expected - 1) < 0.1
    assert np.abs(shares - mix).mean() < 0.03


def test_dealing_by_hand_serves_what_is_asked_for():
    labels = np.array([0, 1, 0, 1, 2])
    mix = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    dealt = deal_by_mix(labels, mix, np.array([2, 2, 1]), np.random.default_rng(0))
    assert [sorted(rows.tolist()) for rows in dealt] == [[0, 2], [1, 3], [4]]


def test_a_class_in_short_supply_is_shared_fairly():
    """All clients ask for class 0 only; there is enough for half of what they ask."""
    labels = np.arange(2_000) % 2
    dealt = deal_by_mix(labels, np.tile([1.0, 0], (20, 1)), np.full(20, 100), np.random.default_rng(0))
    got = dealt.class_counts(labels, 2)[:, 0]
    assert got.sum() == 1_000
    assert got.min() > 25
    assert got.max() < 75


def test_dirichlet_follows_unequal_classes():
    labels = np.repeat([0, 1, 2], [4_000, 1_500, 500])
    assert skew(split(labels, "dirichlet:10000", 30, 0), labels, 3) < 0.05


def test_rare_classes_are_asked_for_rarely():
    """Else the clients that ask for one in vain would hold something of everything."""
    labels = np.repeat(np.arange(10), [10_000, *[100] * 9])
    counts = split(labels, "dirichlet:0.01", 109, 1).class_counts(labels, 10)
    assert (counts.max(1) / counts.sum(1)).mean() > 0.94


def test_labels_need_not_be_numbered_from_zero():
    for spec in ("dirichlet:0.1", "shards:1"):
        assert as_lists(split(BALANCED * 7 + 100, spec, 20, 0)) == as_lists(split(BALANCED, spec, 20, 0))


def test_shards_are_of_equal_size_and_few_classes():
    partition = split(BALANCED, "shards:2", 100, 0)
    assert partition.sizes.tolist() == [60] * 100
    assert (partition.class_counts(BALANCED, 10) > 0).sum(1).tolist().count(2) > 80
    assert (split(BALANCED, "shards:1", 10, 0).class_counts(BALANCED, 10) > 0).sum(1).tolist() == [1] * 10


def test_a_class_of_one_row_has_a_shard():
    partition = split(np.repeat([0, 1, 2], [1_000, 1_000, 1]), "shards:2", 10, 0)
    assert sorted(partition.rows.tolist()) == list(range(2_001))
    assert _apportion(np.array([1_000, 1_000, 1]), 20).tolist() in ([10, 9, 1], [9, 10, 1])
    assert _apportion(np.array([3, 2, 2]), 7).tolist() == [3, 2, 2]
    assert _apportion(np.array([60, 30, 10]), 10).tolist() == [6, 3, 1]
    assert _apportion(np.array([100, 1, 1, 1, 1]), 5).tolist() == [1, 1, 1, 1, 1]


def test_shards_without_room_for_all_classes():
    with pytest.raises(
        ConfigError, match="4 clients of 2 classes cannot hold 10 classes; use at least shards:3"
    ):
        split(BALANCED, "shards:2", 4, 0)
    assert len(split(BALANCED, "shards:3", 4, 0).rows) == 6_000


def test_a_larger_skew_gives_more_unequal_sizes():
    spread = [split(BALANCED, f"quantity:{s}", 100, 0).sizes.std() for s in (0, 0.5, 1, 2, 4)]
    assert spread == sorted(set(spread))
    assert spread[0] == 0
    logs = np.log(split(np.zeros(10**6, int), "quantity:1.0", 1_000, 0).sizes)
    assert abs(logs.std() - 1) < 0.1
    assert skew(split(BALANCED, "quantity:1.0", 10, 0), BALANCED) < 0.1


def test_largest_remainders_are_rounded_up():
    assert _round_to_sum(np.array([1.2, 1.7, 1.1])).tolist() == [1, 2, 1]
    assert _round_to_sum(np.array([0.6, 0.7, 0.7])).tolist() == [0, 1, 1]


def test_quantity_without_skew_is_even_to_one():
    assert sorted(split(np.zeros(11, int), "quantity:0", 3, 0).sizes.tolist()) == [3, 4, 4]


def test_natural_clients_are_the_groups_largest_first():
    groups = np.array([5, 7, 5, 9, 7, 5, 9, 2])
    partition = split(np.zeros(8, int), "natural", 4, 0, groups=groups)
    assert as_lists(partition) == [[0, 2, 5], [1, 4], [3, 6], [7]]
    assert partition.groups.tolist() == [5, 7, 9, 2]
    assert as_lists(split(np.zeros(8, int), "natural", 2, 0, groups=groups)) == [[0, 2, 5], [1, 4]]


def test_natural_needs_groups_enough():
    with pytest.raises(ConfigError, match="5 clients but 4 natural groups; use at most 4 clients"):
        split(np.zeros(8, int), "natural", 5, 0, groups=np.array([5, 7, 5, 9, 7, 5, 9, 2]))
    with pytest.raises(ConfigError, match="needs groups and this dataset has none"):
        split(BALANCED, "natural", 5, 0)
    with pytest.raises(ConfigError, match="3 groups for 6000 rows"):
        split(BALANCED, "natural", 2, 0, groups=np.arange(3))


@pytest.mark.parametrize("spec", [*SPECS, "natural"])
def test_sixty_thousand_rows_to_ten_thousand_clients_take_less_than_a_second(spec):
    labels = np.random.default_rng(0).permutation(np.arange(60_000) % 10)
    groups = np.random.default_rng(1).permutation(np.arange(60_000) % 10_000)
    begin = time.process_time()
    partition = split(labels, spec, 10_000, 0, groups=groups)
    assert time.process_time() - begin < 1
    assert partition.sizes.min() >= 1
    assert np.bincount(partition.rows, minlength=60_000).tolist() == [1] * 60_000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dirchlet:0.3", "unknown partition 'dirchlet'; did you mean 'dirichlet'"),
        ("", "unknown partition ''"),
        ("dirichlet", "needs a concentration above 0, at most 1e6, seen none; say dirichlet:0.3"),
        ("dirichlet:0", "seen 0; say dirichlet:0.3"),
        ("dirichlet:-1", "seen -1"),
        ("dirichlet:nan", "seen nan"),
        ("dirichlet:1e9", r"seen 1e\+09"),
        ("dirichlet:", "'' is not a number; say dirichlet:0.3"),
        ("dirichlet:a lot", "'a lot' is not a number"),
        ("shards:1.5", "needs classes per client, a whole number from 1, seen 1.5; say shards:2"),
        ("shards:0", "seen 0"),
        ("quantity:-0.1", "needs a skew from 0 to 100, seen -0.1"),
        ("quantity:inf", "seen inf"),
        ("iid:3", "partition 'iid' takes no number, seen 3; say iid"),
        ("natural:x", "'x' is not a number; say natural"),
    ],
)
def test_bad_specifications_say_what_to_write(spec, message):
    with pytest.raises(ConfigError, match=message):
        split(BALANCED, spec, 10, 0)


def test_specifications_are_values():
    assert parse_scheme(" dirichlet : 0.3 ") == Scheme("dirichlet", 0.3)
    assert parse_scheme("shards:2") == parse_scheme("shards:2.0")
    assert parse_scheme("iid") == Scheme("iid")
    assert scheme_names() == ("iid", "dirichlet", "shards", "quantity", "natural")


@pytest.mark.parametrize("clients", [0, -3])
def test_no_clients(clients):
    with pytest.raises(ConfigError, match=f"{clients} clients; use at least 1"):
        split(BALANCED, "iid", clients, 0)


def test_no_rows_and_a_negative_seed():
    with pytest.raises(ConfigError, match="no rows to split"):
        split(np.array([], np.int64), "iid", 1, 0)
    with pytest.raises(ConfigError, match="seed is -1; use 0 or more"):
        split(BALANCED, "iid", 1, -1)


def test_test_rows_follow_the_mix_of_the_train_rows():
    rows = Split(np.zeros((6_000, 1), np.uint8), BALANCED)
    test = Split(np.zeros((2_000, 1), np.uint8), np.arange(2_000) % 10)
    dataset = Dataset("mine", rows, test, classes=10, input_shape=(1,))
    train_of = split(dataset, "shards:2", 20, 0)
    test_of = split_test(dataset, train_of, 0)
    assert sorted(test_of.rows.tolist()) == list(range(2_000))
    assert test_of.sizes.tolist() == [100] * 20
    mixes = [
        part.class_counts(labels, 10) / part.sizes[:, np.newaxis]
        for part, labels in ((train_of, dataset.labels), (test_of, dataset.test_labels))
    ]
    assert np.abs(mixes[0] - mixes[1]).sum(1).mean() / 2 < 0.15
    assert as_lists(split_test(dataset, train_of, 0)) == as_lists(test_of)
    assert as_lists(split_test(dataset, train_of, 1)) != as_lists(test_of)


def test_natural_clients_are_tested_on_their_own_rows():
    dataset = load("shakespeare")
    train_of = split(dataset, "natural", 1_000, 0)
    test_of = split_test(dataset, train_of, 0)
    assert len(test_of) == 1_000
    assert test_of.groups.tolist() == train_of.groups.tolist()
    for client in (0, 500, 999):
        group = train_of.groups[client]
        assert test_of[client].tolist() == np.flatnonzero(dataset.test_groups == group).tolist()
        assert train_of[client].tolist() == np.flatnonzero(dataset.groups == group).tolist()
    assert dataset.group_names[train_of.groups[0]] == "Hamlet: HAMLET"
    assert test_of.sizes.tolist() == ((train_of.sizes + test_of.sizes) // 5).tolist()


@pytest.mark.parametrize("spec", ["iid", "quantity:1.0", "natural", "dirichlet:0.3", "shards:3"])
def test_shakespeare_splits_every_way(spec):
    dataset = load("shakespeare")
    partition = split(dataset, spec, 100, 0)
    assert partition.sizes.min() >= 1
    assert len(np.unique(partition.rows)) == len(partition.rows)
    assert partition.class_counts(dataset.labels, dataset.classes).shape == (100, 74)
    assert len(split_test(dataset, partition, 0)) == 100


def test_digits_are_too_few_for_two_thousand_clients():
    with pytest.raises(ConfigError, match="2000 clients but 1442 samples; use at most 1442"):
        split(load("digits"), "iid", 2_000, 0)
