import numpy as np
import pytest

from fedeff.core.errors import DataError
from fedeff.data import Dataset, Split

PIXELS = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
CLASSES = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def make(**changes):
    rows = Split(PIXELS, CLASSES, full_scale=255.0)
    settings = {"name": "mine", "train": rows, "test": rows, "classes": 3, "input_shape": (1, 2, 2)}
    return Dataset(**(settings | changes))


def test_batch_scales_pixels_and_widens_labels():
    x, y = Split(PIXELS, CLASSES, full_scale=10.0).batch(np.array([5, 0]))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x[0], np.float32([[[2.0, 2.1], [2.2, 2.3]]]))
    np.testing.assert_array_equal(x[1], np.float32([[[0, 0.1], [0.2, 0.3]]]))
    assert y.tolist() == [2, 0]


def test_batch_keeps_tokens():
    tokens = np.array([[3, 300], [5, 6]])
    x, y = Split(tokens, tokens + 1, full_scale=2.0).batch(np.array([0]))
    assert x.dtype == y.dtype == np.int64
    assert (x.tolist(), y.tolist()) == ([[3, 300]], [[4, 301]])


def test_batch_is_a_copy_and_may_be_empty_or_everything():
    split = Split(PIXELS.copy(), CLASSES.copy())
    x, y = split.batch()
    x += 1
    y += 1
    np.testing.assert_array_equal(split.x, PIXELS)
    np.testing.assert_array_equal(split.y, CLASSES)
    assert len(split) == 6
    assert split.batch(np.array([], np.int64))[0].shape == (0, 1, 2, 2)


def test_labels_are_the_classes_or_the_strata():
    assert make().labels.tolist() == CLASSES.tolist()
    assert make().labels.dtype == np.int64
    strata = np.array([9, 9, 9, 8, 8, 8])
    assert make(strata=strata).labels.tolist() == strata.tolist()
    assert make(test_strata=strata).test_labels.tolist() == strata.tolist()


def test_rows_without_one_label_say_what_to_do():
    rows = Split(np.zeros((2, 5), np.int64), np.zeros((2, 5), np.int64))
    dataset = make(train=rows, test=rows, input_shape=(5,), task="next-character")
    with pytest.raises(DataError, match=r"no single label; give `strata`, or split iid or quantity"):
        _ = dataset.labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (4,)}, r"train rows are \(1, 2, 2\), expected \(4,\)"),
        ({"groups": np.arange(5)}, r"groups of mine is \(5,\)"),
        ({"test_groups": np.arange(7)}, r"test_groups of mine is \(7,\)"),
        ({"strata": np.zeros((6, 2), int)}, r"strata of mine is \(6, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_split_checks_its_own_arrays():
    with pytest.raises(DataError, match="6 inputs but 5 targets"):
        Split(PIXELS, CLASSES[:5])
    with pytest.raises(DataError, match="full_scale is 0"):
        Split(PIXELS, CLASSES, full_scale=0)
