"""What the settings ask to be learned, and how it is evaluated."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedeff.app import workload
from fedeff.app.client import ConfiguredClientApp
from fedeff.app.evaluation import Evaluation
from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of, new_model, resolved, shares_of
from fedeff.core.errors import ConfigError, DataError
from fedeff.core.layers import encode_record
from fedeff.data import Split
from fedeff.models import model_names


def test_auto_is_decided_and_said(monkeypatch):
    monkeypatch.setattr(workload, "resolve", lambda name, folder: ("fashion-mnist", None))
    assert resolved(Settings()) == (Settings(dataset="fashion-mnist"), ())
    monkeypatch.setattr(workload, "resolve", lambda name, folder: ("shakespeare", "a notice"))
    settings, notices = resolved(Settings())
    assert (settings.model, settings.partition) == ("gru", "natural")
    assert notices[0] == "a notice"
    assert "model = gru" in notices[1]


def test_what_is_given_is_kept():
    settings, notices = resolved(
        Settings(dataset="shakespeare", model="lstm", partition="iid", learning_rate=0.5)
    )
    assert (settings.model, settings.partition, settings.learning_rate) == ("lstm", "iid", 0.5)
    assert notices == ()


@pytest.mark.parametrize("model", model_names())
def test_a_model_that_cannot_read_the_data_is_refused(model):
    reads_text = model in ("gru", "lstm", "transformer")
    wrong = Settings(model=model, dataset="digits" if reads_text else "shakespeare", partition="iid")
    if model == "cnn":  # the default: replaced with a notice, not refused
        assert resolved(wrong)[0].model == "gru"
        return
    with pytest.raises(ConfigError, match="cannot learn"):
        resolved(wrong)


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        resolved(Settings(data_folder=str(tmp_path)))


def test_clients_share_all_rows_once():
    settings = Settings(dataset="digits", partition="shards:2", seed=3)
    shares = shares_of(settings, 20)
    rows = np.concatenate([shares.train[client] for client in range(20)])
    assert sorted(rows) == list(range(len(dataset_of(settings).train)))
    assert shares_of(settings, 20) is shares
    labels = dataset_of(settings).labels
    assert max(len(set(labels[shares.train[client]])) for client in range(20)) <= 2


def test_more_clients_than_samples_are_refused():
    with pytest.raises(ConfigError, match="1442"):
        shares_of(Settings(dataset="digits"), 1443)


def test_a_model_starts_from_the_seed():
    def first(seed):
        return next(new_model(Settings(dataset="digits", model="mlp", seed=seed)).parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def record_of(model):
    return encode_record({key: value.numpy() for key, value in model.state_dict().items()})


@pytest.mark.parametrize("name", ["cnn", "mlp", "logistic"])
def test_the_score_is_the_naive_one(name):
    settings = Settings(dataset="digits", model=name, seed=5)
    rows, model = dataset_of(settings).test, new_model(settings).eval()
    x, y = rows.batch()
    with torch.no_grad():
        logits = model(torch.from_numpy(x))
    score = Evaluation(new_model(Settings(dataset="digits", model=name)), rows)(record_of(model))
    assert score.accuracy == (logits.argmax(1).numpy() == y).mean()
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(y))), rel=1e-5)


def test_the_score_does_not_depend_on_the_processors(monkeypatch):
    settings = Settings(dataset="digits", model="cnn")
    rows, record = dataset_of(settings).train, record_of(new_model(settings))
    scores = set()
    for workers in (1, 2, 5):
        monkeypatch.setattr("fedeff.app.evaluation._workers", lambda device, workers=workers: workers)
        scores.add(Evaluation(new_model(settings), rows)(record))
    assert len(scores) == 1


def test_a_long_text_is_sampled_evenly():
    tokens = np.zeros((9000, 80), np.int64)
    chosen = Evaluation(torch.nn.Linear(1, 1), Split(tokens, tokens))._chosen
    assert len(chosen) * 80 <= 200_000
    assert set(np.diff(chosen)) == {4}


def test_a_client_travels_without_its_data():
    import pickle

    app = ConfiguredClientApp()
    app._made = ({}, object())
    assert pickle.loads(pickle.dumps(app))._made is None
