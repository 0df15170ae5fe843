"""Replicas against naive ones, and differences that lose nothing but rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from fedeff.core.parts import put
from fedeff.grids.replicas import Replica, base_of, has_reference, less, plus, reference_of

WHOLE = {"w": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.ones(4), "n": np.array(3)}
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


@given(data=st.data(), dtype=FLOATS)
def test_what_is_told_as_a_difference_comes_back(data, dtype):
    """To half a unit in the last place of the larger of the two."""
    shape = data.draw(nps.array_shapes(min_dims=0, max_dims=3, max_side=4))
    values, reference = (
        data.draw(nps.arrays(dtype, shape, elements=st.floats(-100, 100, width=16))) for _ in range(2)
    )
    told = less({"x": values}, {"x": reference})
    back = plus(told, {"x": reference})["x"]
    assert back.dtype == dtype
    assert back.shape == shape
    scale = np.abs(values.astype(np.float64)) + np.abs(reference.astype(np.float64))
    assert (np.abs(back.astype(np.float64) - values) <= scale * np.finfo(dtype).eps).all()


def test_what_has_no_reference_is_told_as_it_is():
    base = {"w": WHOLE["w"], "n": WHOLE["n"]}
    others = {
        "unknown": np.ones(2),
        "n": np.array(8),  # whole numbers are not told as differences
        "w": np.ones((3, 4), np.float32),
        "w[2:9]": np.ones((7, 3), np.float32),
    }
    for told in (less(others, base), plus(others, base)):
        assert all(told[name] is values for name, values in others.items())
    assert reference_of(base, "w", WHOLE["w"].astype(np.float64)) is None
    assert not has_reference(base, "w", np.ones(2))
    assert has_reference(base, "unknown", np.array(8))


def test_rows_refer_to_those_of_the_whole():
    assert np.array_equal(reference_of(WHOLE, "w[1:3]", np.zeros((2, 3), np.float32)), WHOLE["w"][1:3])


def test_an_overflow_is_left_to_the_codec_to_refuse():
    big = np.array([3e38], np.float32)
    assert np.isinf(less({"x": big}, {"x": -big})["x"]).all()


def test_rows_go_into_the_array_that_they_are_of():
    part = {"w[1:3]": np.full((2, 3), 70, np.float32)}
    replica = Replica().taking({"arrays": WHOLE}).taking({"arrays": part})
    expected = put(WHOLE, part)
    assert {k: v.tobytes() for k, v in replica.records["arrays"].items()} == {
        k: v.tobytes() for k, v in expected.items()
    }
    assert (WHOLE["w"][1:3] != 70).all()


def test_rows_of_an_array_that_is_not_there_stand_for_themselves():
    part = {"w[1:3]": np.zeros((2, 3), np.float32)}
    alone = Replica().taking({"arrays": part})
    assert list(alone.records["arrays"]) == ["w[1:3]"]
    found = reference_of(alone.records["arrays"], "w[1:3]", part["w[1:3]"])
    assert found is part["w[1:3]"]
    other_shape = Replica({"arrays": {"w": np.zeros((1, 3), np.float32)}}).taking({"arrays": part})
    assert set(other_shape.records["arrays"]) == {"w", "w[1:3]"}


def test_whole_arrays_take_the_place_of_those_before():
    smaller = np.zeros((2, 2), np.float32)
    replica = Replica({"arrays": WHOLE, "more": {"x": smaller}}).taking({"arrays": {"w": smaller}})
    assert replica.records["arrays"]["w"] is smaller
    assert replica.records["arrays"]["b"] is WHOLE["b"]
    assert replica.records["more"] == {"x": smaller}


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: {**arrays, "b": arrays["b"] + [0, 0, 0, 1e-15]},
        lambda arrays: {**arrays, "b": arrays["b"].astype(np.float32)},
        lambda arrays: {**arrays, "b": arrays["b"].reshape(2, 2)},
        lambda arrays: {"w": arrays["w"], "n": arrays["n"], "c": arrays["b"]},
        lambda arrays: {"w": arrays["w"], "n": arrays["n"]},
    ],
    ids=["value", "dtype", "shape", "name", "missing"],
)
def test_a_digest_tells_every_difference(change):
    assert Replica({"arrays": change(WHOLE)}).digest != Replica({"arrays": WHOLE}).digest


def test_a_digest_does_not_tell_order_or_memory():
    turned = {key: np.array(values, order="F") for key, values in reversed(WHOLE.items())}
    assert Replica({"arrays": turned}).digest == Replica({"arrays": WHOLE, "empty": {}}).digest


def test_a_replys_record_refers_to_that_of_its_name_or_to_the_only_one():
    one, two = {"w": WHOLE["w"]}, {"w": WHOLE["w"] + 1}
    assert base_of({"arrays": one, "control": two}, "control") is two
    assert base_of({"arrays": one, "correction": {}}, "model") is one
    assert base_of({"arrays": one, "control": two}, "model") == {}
    assert base_of({}, "arrays") == {}
