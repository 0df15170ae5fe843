"""The page of a code: its numbers are those that were measured, its front is the true one."""

import numpy as np
import pytest

from fedeff.report.codes import CodeScore, latency_figure, pareto_figure, write_codes

WAITS = np.array([1.0, 2.0, 4.0, 8.0])


def scored(name, overhead, scale, accuracy=None):
    return CodeScore(name, overhead, scale * WAITS, accuracy or {})


def test_the_page_says_what_was_measured(tmp_path):
    scores = [scored("uncoded", 0.0, 1.0), scored("ours", 0.5, 0.5, {0: 0.9, 1: 0.875})]
    path = write_codes(scores, "A code", "k = 2, r = 1", "task times", tmp_path / "page.html")
    text = path.read_text()
    assert "87.5%" in text
    assert "2.00× shorter than uncoded" in text
    titles = ("Items that wait longer", "Tail against redundancy", "Accuracy of answers")
    assert all(f">{title}<" in text for title in titles)
    assert "encode" not in text  # nothing was timed


def test_only_what_was_measured_is_drawn(tmp_path):
    exact = CodeScore("exact", 0.2, accuracy={0: 0.9}, encode_ms=0.125, decode_ms=0.25)
    text = write_codes([exact], "A code", "", "task times", tmp_path / "page.html").read_text()
    assert ">Accuracy of answers<" in text
    assert ">Items that wait longer<" not in text
    assert "0.12 ms" in text
    assert "0.25 ms" in text


def test_the_curve_is_the_share_of_items_that_wait_longer():
    (line,) = latency_figure([scored("one", 0.0, 1.0)], "s").axes[0].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), WAITS)
    np.testing.assert_array_equal(line.get_ydata(), [1, 0.75, 0.5, 0.25])


def test_the_front_leaves_out_what_another_beats_in_both():
    scores = [scored("a", 0.0, 4.0), scored("b", 0.5, 1.0), scored("c", 0.5, 2.0), scored("d", 1.0, 1.0)]
    front = pareto_figure(scores, "s").axes[0].get_lines()[0]
    np.testing.assert_array_equal(front.get_xdata(), [0.0, 0.5])
    np.testing.assert_array_equal(front.get_ydata(), [scores[0].tail, scores[1].tail])


def test_the_tail_is_a_percentile():
    assert scored("one", 0.0, 1.0).tail == pytest.approx(np.percentile(WAITS, 99.9))
