"""What features are worth: the linear probe, the neighbours' vote, and which labels they see."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from fedeff.clients.data import Samples
from fedeff.clients.self_supervision import (
    fit_probe,
    labelled,
    labelled_rows,
    neighbours_vote,
    representation_score,
)
from fedeff.core.errors import ConfigError


def blobs(count, seed=0, classes=4, width=6, apart=4.0):
    """Points around one centre a class."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((classes, width))
    y = rng.integers(0, classes, count)
    x = apart * centres[y] + rng.standard_normal((count, width))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


def test_a_probe_separates_what_is_separable():
    known, test = blobs(60), blobs(500, seed=1)
    probe = fit_probe(*known, 4)
    assert float((probe.logits(test[0]).argmax(1) == test[1]).double().mean()) > 0.98


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_a_probe_is_the_minimum_that_scikit_learn_finds(decay):
    x, y = blobs(80, apart=0.7)
    x[:, 2] = 5.0  # a feature that tells nothing
    probe = fit_probe(x, y, 4, decay=decay)
    inputs = ((x.double() - probe.centre) / probe.scale).numpy()
    peer = LogisticRegression(C=1 / (decay * len(y)), tol=1e-8, max_iter=2000).fit(inputs, y.numpy())
    np.testing.assert_allclose(
        probe.logits(x).softmax(1).numpy(), peer.predict_proba(inputs), rtol=0, atol=2e-3
    )


def test_a_class_without_a_label_is_unlikely_not_impossible():
    x, y = blobs(40, classes=2)
    logits = fit_probe(x, y, 5).logits(x)
    loss = F.cross_entropy(logits, torch.full((40,), 4))
    assert 1 < float(loss) < float("inf")
    assert bool((logits.argmax(1) < 2).all())


def test_neighbours_vote_as_a_naive_loop_has_them():
    bank, labels = blobs(50, apart=0.5)
    queries, _ = blobs(30, seed=2, apart=0.5)
    for neighbours in (1, 7, 20, 80):
        votes = neighbours_vote(queries, bank, labels, 4, neighbours=neighbours, temperature=0.2)
        expected = [naive_vote(query, bank, labels, neighbours, 0.2) for query in queries]
        assert votes.tolist() == expected


def naive_vote(query, bank, labels, neighbours, temperature):
    cosines = [float(query @ row / query.norm() / row.norm()) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda row: -cosines[row])[:neighbours]
    votes = [0.0] * 4
    for row in nearest:
        votes[int(labels[row])] += math.exp(cosines[row] / temperature)
    return votes.index(max(votes))


def test_labelled_rows_are_a_share_of_every_class_and_at_least_one():
    labels = np.repeat([0, 3, 7], [200, 90, 4])
    np.random.default_rng(1).shuffle(labels)
    rows = labelled_rows(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [20, 0, 0, 9, 0, 0, 0, 1]
    assert list(rows) == sorted(set(rows))
    assert np.array_equal(rows, labelled_rows(labels, 0.1, np.random.default_rng(0)))
    assert not np.array_equal(rows, labelled_rows(labels, 0.1, np.random.default_rng(1)))
    assert len(labelled_rows(labels, 1.0, np.random.default_rng(0))) == 294
    with pytest.raises(ConfigError, match="no rows"):
        labelled_rows(labels[:0], 0.1, np.random.default_rng(0))


def test_a_score_looks_at_the_labels_of_known_rows_alone():
    net = torch.nn.Linear(6, 6)
    arrays = {key: value.numpy().copy() for key, value in net.state_dict().items()}
    known, test = Samples(*blobs(80)), Samples(*blobs(300, seed=1))
    score = representation_score(net, arrays, known, test)
    assert score.probe_accuracy > 0.95
    assert score.neighbours_accuracy > 0.95
    assert score.probe_loss < 0.3
    assert score.examples == 300
    wrong = Samples(known.x, (known.y + 1) % 4)
    assert representation_score(net, arrays, wrong, test).probe_accuracy < 0.05
    nothing = representation_score(net, arrays, known, Samples(test.x[:0], test.y[:0]))
    assert (nothing.examples, nothing.probe_accuracy) == (0, 0.0)


def test_a_clients_labelled_samples_are_its_own():
    x, y = blobs(200)
    known = labelled(Samples(x, y), 0.05, np.random.default_rng(0))
    assert 8 <= len(known) <= 12
    for row, label in zip(known.x, known.y, strict=True):
        (place,) = torch.nonzero((x == row).all(1)).flatten().tolist()
        assert y[place] == label
