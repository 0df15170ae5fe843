"""The arithmetic of the bench on compression: bounds, paced links, what the page says of runs."""

import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedeff.app.overrides import parse_overrides
from fedeff.app.settings import Settings
from fedeff.compression import codec_of, layout_of, pack

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.compression.bounds import binary_entropy, bound_bits, has_levels, mean_kept, sent_entropy
from bench.compression.paced import Link, round_s
from bench.compression.page import command_of, page
from bench.compression.rows import BEST, FEWEST, FLOAT, KEY, comparisons
from bench.strategies.rows import Outcome
from bench.strategies.runs import settings_of

sys.path.pop()

ARRAYS = {
    "w": np.random.default_rng(0).standard_normal((200, 300)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal(500).astype(np.float32),
}
LAYOUT = layout_of(ARRAYS)
H_FIFTH = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))


def test_entropies_by_hand():
    assert (binary_entropy(0.5), binary_entropy(0), binary_entropy(1)) == (1, 0, 0)
    assert binary_entropy(0.2) == pytest.approx(H_FIFTH)
    arrays = {"half": np.array([0.0, 1.0, 0.0, 1.0]), "same": np.zeros(12)}
    assert sent_entropy(arrays) == pytest.approx(4 / 16)


@pytest.mark.parametrize(
    ("spec", "bits"),
    [
        ("raw", 32),
        ("tern_grad", math.log2(3)),
        ("error_feedback(uniform(4))", 4),
        ("qsgd(7)", math.log2(15)),
        ("ef21(top_k(0.2))", H_FIFTH + 0.2 * 32),
        ("random_k(0.2)", 0.2 * 32),
        ("chain(top_k(0.2), sign)", H_FIFTH + 0.2),
        ("chain(random_k(0.2), tern_grad)", 0.2 * math.log2(3)),
        ("error_feedback(power_sgd(2))", (500 * 32 + 2 * (200 + 300) * 32) / 60500),
        ('per_layer({"b": raw, "*": sign})', (500 * 32 + 60000) / 60500),
    ],
)
def test_bounds_by_hand_are_below_what_travels(spec, bits):
    codec = codec_of(spec)
    assert bound_bits(codec, LAYOUT) == pytest.approx(bits)
    if codec.name != "qsgd":  # it adapts to the values
        blob, _ = pack(ARRAYS, codec, {}, np.random.default_rng(0), compact=True)
        assert 8 * len(blob) / 60500 > bits


def test_what_a_mean_keeps_by_hand():
    """The mean (3, 4) of length 5; decoded, (3, 0): 9 of 25 of it is held, and 4 of 5 is missing."""
    sent = np.array([[2.0, 8.0], [4.0, 0.0]])
    assert mean_kept(sent, sent) == (1, 0)
    assert mean_kept(sent, sent * [1, 0]) == pytest.approx((9 / 25, 4 / 5))


def test_levels_are_told_apart():
    assert has_levels(codec_of("tern_grad"))
    assert has_levels(codec_of("qsgd(7, 0)"))
    assert not has_levels(codec_of("qsgd(7)"))
    assert not has_levels(codec_of("top_k(0.1)"))


def test_a_paced_round_takes_as_long_as_its_link():
    """60 kB down and 1.5 kB up at 1 MB/s, twice 10 ms, 20 ms of training: at least 0.1 s."""
    link, codec = Link(1e6, 0.01), codec_of("error_feedback(sign)")
    begin = time.perf_counter()
    seconds = round_s(link, bytes(60_000), [{"b": ARRAYS["b"]}, {"b": ARRAYS["b"]}], codec, 0.02)
    assert 0.1 <= seconds <= time.perf_counter() - begin


def outcome(accuracy, uplink, rounds, uplink_to_target):
    return Outcome(accuracy, accuracy, uplink, 1.0, rounds, None, uplink_to_target)


def test_the_page_compares_with_float_seed_by_seed():
    comparison = comparisons()[KEY]
    outcomes = {
        FLOAT: (outcome(0.70, 200e6, 20, 160e6), outcome(0.60, 200e6, 30, 180e6)),
        "tern": (outcome(0.699, 10e6, 22, 8e6), outcome(0.598, 10e6, None, None)),
        BEST: (outcome(0.65, 2e6, 24, 1e6), outcome(0.64, 2e6, 36, 1.5e6)),
    }
    text = page(comparison, outcomes, None, "one machine")
    told = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "0.15 (0.10–0.20) points | ≤ 0.5 points | PASS" in told["tern: accuracy behind float"]
    assert "20.00" in told["tern: fewer uplink bytes than float"]
    assert "22.0, 1 never" in told["TernGrad, clipped at 2.5 sigma (2)"]
    fewer, rounds = (line for name, line in told.items() if name.startswith(f"{BEST}: "))
    assert "140 (120–160)× | ≥ 100× | PASS" in fewer
    assert "1.20 (1.20–1.20)× | ≤ 1.5× | PASS" in rounds


def test_the_command_of_a_case_is_its_run():
    comparison = comparisons()[KEY]
    case = comparison.case(FEWEST)
    words = shlex.split(command_of(comparison, case))
    assert words[:8] == ["fedeff", "simulate", "-n", "128", "--engine", "inline", "--seed", "0"]
    told = Settings.from_run_config({**parse_overrides([words[-1]]), "seed": 0})
    assert told.complete() == settings_of(comparison, case, 0).complete()
