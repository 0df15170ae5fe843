"""`-c` texts: pairs, files, alternatives."""

import pytest
import tomli_w
from flwr.common.config import flatten_dict, parse_config_args
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.overrides import flatten, fuse, parse_axes, parse_overrides, read_toml
from fedeff.core.errors import ConfigError

keys = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
plain = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[a-z:/. ]{0,8}", fullmatch=True),
)


def written(value):
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


@given(st.dictionaries(keys, plain, min_size=1))
def test_whatever_flower_reads_is_read_alike(config):
    text = " ".join(f"{key}={written(value)}" for key, value in config.items())
    assert parse_overrides([text]) == parse_config_args([text]) == config


@given(
    st.recursive(plain, lambda inner: st.dictionaries(keys, inner), max_leaves=8).filter(
        lambda x: isinstance(x, dict)
    )
)
def test_nested_tables_are_joined_as_flower_does(tables):
    assert flatten(tables) == flatten_dict(tables)


def test_a_bare_word_is_text():
    assert parse_overrides(["model=mlp", "partition=dirichlet:0.3 data-folder=/a/b"]) == {
        "model": "mlp",
        "partition": "dirichlet:0.3",
        "data-folder": "/a/b",
    }


def test_later_texts_win(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('cohort = 3\nmodel = "mlp"\n[deep]\nkey = 1\n')
    assert parse_overrides([str(file), "cohort=5"]) == {"cohort": 5, "model": "mlp", "deep.key": 1}


@pytest.mark.parametrize("text", ["cohort", "cohort=", "=5", "cohort =5", "cohort=5 model", "a='unclosed b"])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides([text])


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        parse_overrides([str(tmp_path / "none.toml")])
    broken = tmp_path / "broken.toml"
    broken.write_text("cohort = = 3")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_toml(broken)
    listed = tmp_path / "listed.toml"
    listed.write_text("cohort = [1, 2]")
    with pytest.raises(ConfigError, match="not a number, text"):
        parse_overrides([str(listed)])


def test_axes_are_lists_of_alternatives(tmp_path):
    assert parse_axes(["learning-rate=0.05,0.1 model=mlp", "partition='a,b'"]) == {
        "learning-rate": (0.05, 0.1),
        "model": ("mlp",),
        "partition": ("a,b",),
    }
    with pytest.raises(ConfigError, match="twice"):
        parse_axes(["cohort=1,1"])
    with pytest.raises(ConfigError, match="empty"):
        parse_axes(["cohort=1,,2"])


def test_fusing_keeps_to_known_keys():
    assert fuse({"a": 1, "b": 2}, {"b": 3}) == {"a": 1, "b": 3}
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        fuse({"rounds": 1}, {"round": 2})
    with pytest.raises(ConfigError, match=r"no \[tool.flwr.app.config\]"):
        fuse({}, {"round": 2})
