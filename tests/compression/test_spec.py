"""Specs: what is written is read back, typos name their neighbours, no text does harm."""

import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.compression import (
    EF21,
    QSGD,
    Chain,
    ErrorFeedback,
    Half,
    PerLayer,
    PowerSGD,
    RandomK,
    Raw,
    Sign,
    TernGrad,
    TopK,
    Uniform,
    codec_names,
    codec_of,
    spec_of,
)
from fedeff.errors import ConfigError

FRACTIONS = st.floats(1e-9, 1, exclude_min=True)
SELECTIONS = st.one_of(st.builds(TopK, FRACTIONS), st.builds(RandomK, FRACTIONS, st.booleans()))
VALUES = st.one_of(
    st.just(Raw()),
    st.just(Sign()),
    st.builds(Half, st.sampled_from(["float16", "bfloat16"])),
    st.builds(Uniform, st.integers(1, 8)),
    st.builds(QSGD, st.integers(1, 127), st.integers(0, 2**31), st.sampled_from(["l2", "max"])),
    st.builds(TernGrad, st.floats(0, 1e9), st.sampled_from(["base3", "2bit"])),
)
PLAIN = st.one_of(
    VALUES, SELECTIONS, st.builds(PowerSGD, st.integers(1, 1024)), st.builds(Chain, SELECTIONS, VALUES)
)
BY_LAYER = st.builds(
    lambda rules, last: PerLayer({**{key: rules[key] for key in rules if key != "*"}, "*": last}),
    st.dictionaries(st.text("abz.*?[]!09 _-é", max_size=8), PLAIN, max_size=3),
    PLAIN,
)
HELD = st.one_of(st.builds(TopK, FRACTIONS), st.just(Sign()), st.builds(Uniform, st.integers(2, 8)))
CODECS = st.one_of(PLAIN, BY_LAYER, st.builds(ErrorFeedback, HELD), st.builds(EF21, HELD))


@given(codec=CODECS)
def test_what_is_written_is_read_back(codec):
    assert codec_of(spec_of(codec)) == codec
    assert spec_of(codec_of(spec_of(codec))) == spec_of(codec)
    assert pickle.loads(pickle.dumps(codec)) == codec


@pytest.mark.parametrize(
    ("spec", "codec"),
    [
        ("raw", Raw()),
        ("raw()", Raw()),
        (" top_k ( 0.01 ) ", TopK(0.01)),
        ("top_k(fraction=1e-2)", TopK(0.01)),
        ("top_k(1)", TopK(1.0)),
        ("tern_grad", TernGrad(2.5)),
        ("tern_grad(packing='2bit')", TernGrad(2.5, "2bit")),
        ("random_k(0.5, False)", RandomK(0.5, unbiased=False)),
        ("error_feedback(chain(top_k(0.01), uniform(4)))", ErrorFeedback(Chain(TopK(0.01), Uniform(4)))),
        ('per_layer({"fc2.*": raw, "*": tern_grad,})', PerLayer({"fc2.*": Raw(), "*": TernGrad()})),
    ],
)
def test_specs(spec, codec):
    assert codec_of(spec) == codec


@pytest.mark.parametrize(
    ("codec", "spec"),
    [
        (TopK(0.01), "top_k(0.01)"),
        (TernGrad(), "tern_grad"),
        (TernGrad(packing="2bit"), 'tern_grad(packing="2bit")'),
        (Uniform(4), "uniform(4)"),
        (QSGD(7, 64), "qsgd(bucket=64)"),
        (QSGD(1, 64, "max"), 'qsgd(1, 64, "max")'),
        (Half("bfloat16"), 'half("bfloat16")'),
        (PerLayer({"fc2.*": Raw(), "*": TernGrad()}), 'per_layer({"fc2.*": raw, "*": tern_grad})'),
    ],
)
def test_defaults_are_left_out(codec, spec):
    assert spec_of(codec) == spec


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("topk(0.1)", "unknown codec 'topk'; did you mean 'top_k'?"),
        ("top_k(fracton=0.1)", "unknown field of top_k 'fracton'; did you mean 'fraction'?"),
        ("top_k", "top_k lacks its fraction; such as top_k\\(0.01\\)"),
        ("chain(top_k(0.1))", "chain lacks its then"),
        ("sign(1)", "sign takes no values; value 1 is too many"),
        ("uniform(4, 5)", "uniform takes bits; value 2 is too many"),
        ("uniform(4, bits=5)", "uniform is given its bits twice"),
        ("uniform(4", "has an end at character 9 instead of ','"),
        ("uniform 4", "has '4' at character 9 instead of its end"),
        ("uniform(4))", "has '\\)' at character 11 instead of its end"),
        ("", "has an end at character 0 instead of a name"),
        ("top_k(0.1;)", "has ';' at character 10"),
        ("top_k(0.1)(2)", "instead of its end"),
        ("3(2)", "instead of a name"),
        ("per_layer({raw: raw})", "instead of quoted text"),
        ("per_layer(raw)", "patterns with codecs"),
        ("top_k(0.1='x')", "a field is a name"),
        ("top_k('\\\\')", 'has "\'" at'),
        ("top_k(True)", "above 0 and up to 1"),
        ("uniform(99999999999999999999999999)", "whole number from 1 to 8"),
        ("tern_grad(1e999)", "0 or more"),
        ("chain(" * 20 + ")" * 20, "nested deeper than 8"),
        ("raw" + " " * 5000, "5003 characters long"),
        ("__import__('os')", "unknown codec '__import__'"),
    ],
)
def test_what_is_not_understood_is_named(spec, told):
    with pytest.raises(ConfigError, match=told):
        codec_of(spec)


@given(spec=st.one_of(st.text(max_size=60), st.text("topk_raw(){}:,='\"01.*eE-+ \n\\", max_size=60)))
def test_any_text_is_a_codec_or_an_error_of_ours(spec):
    with suppress(ConfigError):
        assert codec_of(spec_of(codec_of(spec))) == codec_of(spec)


def test_every_codec_is_known_by_name():
    assert set(codec_names()) == {
        "chain", "ef21", "error_feedback", "half", "per_layer", "power_sgd", "qsgd", "random_k", "raw",
        "sign", "tern_grad", "top_k", "uniform",
    }  # fmt: skip
