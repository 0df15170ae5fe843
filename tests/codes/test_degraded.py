"""How right estimates are: where the answer is known, and against a count by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from fedeff.codes.berrut import Berrut
from fedeff.codes.degraded import degraded_accuracy, worker_outputs
from fedeff.codes.mds import MDS
from fedeff.codes.replication import Replication
from fedeff.codes.spec import code_names, code_of
from fedeff.core.errors import CodeError, ConfigError


def linear(classes=4):
    module = nn.Linear(6, classes, bias=False)
    module.weight.data = torch.from_numpy(np.random.default_rng(0).standard_normal((classes, 6), np.float32))
    return module


def asked(code, groups=20):
    inputs = np.random.default_rng(1).standard_normal((groups, code.k, 6), np.float32)
    outputs = worker_outputs(code, linear(), inputs)
    own = np.stack([linear()(torch.from_numpy(group)).detach().numpy() for group in inputs])
    return outputs, own.argmax(-1)


@pytest.mark.parametrize("code", [MDS(4, 2), Replication(3, 3), MDS(2, 2)])
def test_exact_codes_are_as_right_as_the_function(code):
    outputs, labels = asked(code)
    assert outputs.shape == (20, code.k + code.r, 4)
    for missing in range(1, min(code.k, code.r) + 1):
        found = degraded_accuracy(code, outputs, labels, missing=missing)
        assert (found.mean, found.worst) == (1.0, 1.0)


def test_only_missing_answers_count_and_patterns_are_all_of_them():
    """Labels of the first item of each group are wrong: an estimate of it is never right."""
    code = MDS(3, 1)
    outputs, labels = asked(code)
    labels = labels.copy()
    labels[:, 0] = (labels[:, 0] + 1) % 4
    found = degraded_accuracy(code, outputs, labels, missing=1)
    assert (found.mean, found.worst, found.patterns) == (pytest.approx(2 / 3), 0.0, 3)
    assert degraded_accuracy(code, outputs, labels, missing=1, patterns=2).patterns == 2


def test_all_answers_of_a_code_that_is_not_systematic_count():
    code = Berrut(3, 3)
    outputs, labels = asked(code)
    naive = np.mean(
        [
            code.decode(group, np.arange(6) != lost).values.argmax(-1) == expected
            for lost in range(3)
            for group, expected in zip(outputs, labels, strict=True)
        ]
    )
    assert degraded_accuracy(code, outputs, labels, missing=1).mean == pytest.approx(naive)


@pytest.mark.parametrize("missing", [0, 3])
def test_more_missing_than_parities_are_refused(missing):
    code = MDS(4, 2)
    outputs, labels = asked(code)
    with pytest.raises(CodeError, match="expected 1 to 2"):
        degraded_accuracy(code, outputs, labels, missing=missing)


@pytest.mark.parametrize("name", code_names())
def test_codes_by_name(name):
    code = code_of(f"{name}:5,2")
    assert (code.k, code.r) == (5, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("berut:2,1", "did you mean 'berrut'"),
        ("mds", "write mds:K,R"),
        ("mds:2", "write mds:K,R"),
        ("mds:0,1", "k"),
    ],
)
def test_other_texts_name_no_code(spec, message):
    with pytest.raises(ConfigError, match=message):
        code_of(spec)
