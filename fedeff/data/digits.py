"""Scikit-learn's handwritten digits: 1,797 images of 8 x 8, the smallest real dataset there is.

The test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998).
"""

from importlib.metadata import version

import numpy as np

from fedeff.core.rng import generator
from fedeff.data.cache import Arrays, mapped_arrays
from fedeff.data.dataset import Dataset, Split

__all__ = ["TEST_FRACTION", "load_digits"]

TEST_FRACTION = 0.2  # of each digit's images, drawn once and for all


def load_digits() -> Dataset:
    """1,442 train and 355 test images, x uint8 (n, 1, 8, 8) in 0..16, y in 0..9.

    Good for tests and first steps; too small to tell two strategies apart.
    """
    stamps = [version("scikit-learn"), str(TEST_FRACTION), "1"]
    arrays = mapped_arrays("digits", stamps, _read)
    return Dataset(
        name="digits",
        train=Split(arrays["train-x"], arrays["train-y"], full_scale=16.0),
        test=Split(arrays["test-x"], arrays["test-y"], full_scale=16.0),
        classes=10,
        input_shape=(1, 8, 8),
        label_names=tuple("0123456789"),
    )


def _read() -> Arrays:
    from sklearn import datasets  # a second of imports, needed only to fill the cache

    bunch = datasets.load_digits()
    x = bunch.images.astype(np.uint8)[:, np.newaxis]
    y = bunch.target.astype(np.int64)
    is_test = np.zeros(len(y), bool)
    for digit in range(10):
        rows = generator(0, purpose="digits split", client=digit).permutation(np.flatnonzero(y == digit))
        is_test[rows[: int(TEST_FRACTION * len(rows))]] = True
    return {"train-x": x[~is_test], "train-y": y[~is_test], "test-x": x[is_test], "test-y": y[is_test]}
