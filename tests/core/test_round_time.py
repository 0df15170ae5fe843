"""The time of a round: hand-computed answers, the dissertation's equations, the virtual clock's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.delays import VirtualClock
from fedeff.core.errors import ConfigError
from fedeff.core.round_time import Load, RoundTime, Star, Tree


def test_a_round_adds_up():
    assert RoundTime(1, 2, 4, 8).total_s == 15
    assert Load(10, 1.5, 0.5).coding_s == 2


def test_a_star_by_hand():
    """1000 B down at 100 B/s, 50 B up at 10 B/s, 0.5 s each way, 3 s of training; 4 answers to decode."""
    one = Star(4, down_bytes_per_s=100, up_bytes_per_s=10, latency_s=0.5).round_time(
        3, Load(1000, encode_s=1, decode_s=2), Load(50, encode_s=0.25, decode_s=0.125)
    )
    assert one == RoundTime(compute_s=3, transfer_s=15, latency_s=1, coding_s=3 + 0.25 + 4 * 0.125)


def test_clients_share_the_server_link_only_where_it_is_narrower_than_theirs():
    down, up = Load(1000), Load(500)
    alone = Star(4, 100, 100)
    assert alone.round_time(0, down, up).transfer_s == 15
    assert Star(4, 100, 100, server_bytes_per_s=400).round_time(0, down, up).transfer_s == 15
    assert Star(4, 100, 100, server_bytes_per_s=200).round_time(0, down, up).transfer_s == 30


@given(
    compute_s=st.floats(0, 100),
    latency_s=st.floats(0, 10),
    bandwidth=st.floats(1, 1e9),
    down=st.integers(0, 10**8),
    up=st.integers(0, 10**8),
    clients=st.integers(1, 1000),
)
def test_a_star_without_coding_takes_what_the_virtual_clock_says(
    compute_s, latency_s, bandwidth, down, up, clients
):
    clock = VirtualClock(seconds_per_step=compute_s, latency_s=latency_s, bandwidth_bytes_per_s=bandwidth)
    star = Star(clients, bandwidth, bandwidth, latency_s)
    expected = clock.round_trip_s(client=0, round=1, steps=1, down_bytes=down, up_bytes=up)
    assert star.round_time(compute_s, Load(down), Load(up)).total_s == pytest.approx(expected)


def test_a_tree_is_equation_b_1_and_b_3():
    """8 machines of 4 workers: 2 levels within, 3 across."""
    tree = {"workers_per_machine": 4, "network_bytes_per_s": 10, "latency_s": 0.5}
    tree |= {"worker_bytes_per_s": 100, "host_bytes_per_s": 50}
    gradient = Load(1000, encode_s=0.1, decode_s=0.1)
    strong = Tree(8, **tree).round_time(64, gradient)
    assert strong.compute_s == 64 / 32
    assert strong.transfer_s == pytest.approx(1000 / 100 * 2 + 1000 / 50 + 1000 / 10 * 3)
    assert strong.latency_s == 0.5 * 3
    assert strong.coding_s == pytest.approx(0.2 * 5)
    weak = Tree(8, **tree, scaling="weak").round_time(64, gradient)
    assert weak.total_s - strong.total_s == pytest.approx(62)


def test_one_worker_pays_for_its_host_alone():
    assert Tree(1, host_bytes_per_s=50).round_time(3, Load(100, 1, 1)) == RoundTime(3, 2, 0, 0)


@given(st.integers(1, 512), st.floats(1, 1e9), st.floats(1e3, 1e9))
def test_fewer_bytes_are_never_slower(machines, size, rate):
    tree = Tree(machines, network_bytes_per_s=rate)
    whole, coded = tree.round_time(1, Load(size)), tree.round_time(1, Load(size / 20))
    assert coded.total_s <= whole.total_s
    assert coded.transfer_s == pytest.approx(whole.transfer_s / 20)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Star(0), "clients is 0"),
        (lambda: Star(1, up_bytes_per_s=0), "up_bytes_per_s is 0"),
        (lambda: Star(1, latency_s=math.nan), "latency_s is nan"),
        (lambda: Star(1).round_time(-1, Load(1), Load(1)), "compute_s is -1"),
        (lambda: Tree(2, workers_per_machine=0), "workers_per_machine is 0"),
        (lambda: Tree(2, host_bytes_per_s=-1), "host_bytes_per_s is -1"),
        (lambda: Tree(2, scaling="week"), "weak"),
        (lambda: Load(math.inf), "size_bytes is inf"),
    ],
)
def test_impossible_numbers_are_refused_in_a_line(make, said):
    with pytest.raises(ConfigError, match=said) as refusal:
        make()
    assert "\n" not in str(refusal.value)
