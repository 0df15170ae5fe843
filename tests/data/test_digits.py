import numpy as np
from sklearn.datasets import load_digits

from fedeff.data import load


def test_all_images_are_there_once_scaled_to_one():
    digits = load("digits")
    whole = load_digits()
    assert (len(digits.train), len(digits.test)) == (1_442, 355)
    assert digits.input_shape == digits.train.x.shape[1:] == (1, 8, 8)
    images = np.concatenate([digits.train.batch()[0], digits.test.batch()[0]])
    labels = np.concatenate([digits.labels, digits.test_labels])
    assert (images.min(), images.max()) == (0, 1)
    seen = np.column_stack([images.reshape(-1, 64) * 16, labels])
    wanted = np.column_stack([whole.data, whole.target])
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], wanted[np.lexsort(wanted.T)])


def test_every_fifth_of_a_digit_is_for_testing():
    digits = load("digits")
    test, train = np.bincount(digits.test_labels), np.bincount(digits.labels)
    np.testing.assert_array_equal(test, (test + train) // 5)


def test_the_cut_is_the_same_without_a_cache(empty_cache):
    first = load("digits").test.x.copy()
    for entry in (empty_cache / "digits").iterdir():
        for file in entry.iterdir():
            file.unlink()
    np.testing.assert_array_equal(load("digits").test.x, first)
