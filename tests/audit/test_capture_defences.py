"""Views of updates that are coded, summed or noisy: what is lost on the way is said, and nothing else is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from audit.capturing import CLIENTS, check, gradients, retrained, samples_of, small

from fedeff.audit.capturing.capture import capture
from fedeff.audit.capturing.cohort import mean_exchange
from fedeff.audit.capturing.recording import Recorder
from fedeff.audit.naive import naive
from fedeff.audit.replay.matching import Matching
from fedeff.core.errors import AuditError
from fedeff.core.layers import decode_record

CODECS = [
    "", "raw", "half", "uniform(8)", "qsgd", "tern_grad", "sign", "power_sgd", "top_k(0.1)",
    "random_k(0.25)", "chain(top_k(0.2), uniform(4))", "error_feedback(top_k(0.1))", "ef21(top_k(0.1))",
    'per_layer({"fc2.*": raw, "*": sign})',
]  # fmt: skip


TRAVELS = {"top_k(0.1)": 0.1, "random_k(0.25)": 0.25, "chain(top_k(0.2), uniform(4))": 0.2}


@pytest.mark.parametrize("spec", CODECS)
def test_what_is_told_is_what_the_production_decoder_handed_to_the_strategy(spec, monkeypatch):
    handed: dict[tuple[int, int], Any] = {}
    take = Recorder.take

    def spied(recorder, decoded):
        node = decoded.metadata.src_node_id
        handed[node, len([one for one in handed if one[0] == node])] = decode_record(
            decoded.content["arrays"]
        )
        take(recorder, decoded)

    monkeypatch.setattr(Recorder, "take", spied)
    shown = capture(small(codec=spec), CLIENTS, rounds=2)
    nodes = sorted({node for node, _ in handed})
    for one in shown:
        for turn, exchange in enumerate(one.view.exchanges):
            arrays = handed[nodes[one.partition], turn]
            assert exchange.told.keys() == arrays.keys()
            for key, told in exchange.told.items():
                scale = 1.0
                if spec.startswith("random_k"):
                    scale = told.values.size / told.mask.sum()
                after = exchange.weights[key] + scale * told.values
                np.testing.assert_allclose(arrays[key], after, atol=1e-7)
                moved = arrays[key] != exchange.weights[key]
                if spec in TRAVELS:  # exactly what travelled
                    assert not np.any(moved & ~told.mask)
                    assert told.mask.sum() == max(1, round(TRAVELS[spec] * moved.size))


def test_in_a_mean_of_clients_what_some_left_out_lies_within_the_sum_of_their_bounds():
    settings = small(codec="top_k(0.3)")
    shown = capture(settings, CLIENTS)
    mean = mean_exchange([one.view.first for one in shown])
    rows = [one.view.first.examples for one in shown]
    truly = [retrained(settings, one.partition, one.view.first) for one in shown]
    for key, told in mean.told.items():
        change = sum(count * each[key] for count, each in zip(rows, truly, strict=True)) / sum(rows)
        bounded = told.bounded
        np.testing.assert_array_equal(bounded, ~told.mask)
        beyond = (np.abs(told.values - change) - told.within)[bounded]
        assert beyond.max(initial=-1.0) < 1e-7
        assert np.all(told.within[bounded] < 2 * np.abs(change).max())
    for one in naive(shown[0].view).first.told.values():
        assert not one.bounded.any()
        assert one.known is None


@pytest.mark.parametrize("spec", ["uniform(4)", "tern_grad", "qsgd", "chain(random_k(0.5), uniform(4))"])
def test_the_deviation_covers_what_the_wire_really_lost(spec):
    settings = small(codec=spec)
    errors, deviations = [], []
    for one in capture(settings, CLIENTS):
        truly = retrained(settings, one.partition, one.view.first)
        for key, told in one.view.first.told.items():
            errors.append((told.values - truly[key])[told.mask])
            deviations.append(np.broadcast_to(told.std, told.values.shape)[told.mask])
    share = np.concatenate(errors) / np.concatenate(deviations)
    assert 0.5 < np.sqrt(np.mean(share**2)) < 1.2


def test_secure_sums_are_the_means_of_the_plain_updates_of_those_left():
    plain = capture(small(), CLIENTS, rounds=2)
    secured = small(secure_aggregation="lightsecagg")
    for lost in ([], [2]):
        (one,) = capture(secured, CLIENTS, rounds=2, lost=lost)
        left = [other for other in plain if other.partition not in lost]
        assert one.partition == tuple(other.partition for other in left)
        assert len(one.truth) == sum(len(other.truth) for other in left)
        exchange = one.view.first
        mean = mean_exchange([other.view.first for other in left])
        assert (exchange.clients, exchange.examples) == (len(left), mean.examples)
        for key, told in exchange.told.items():
            wrong = np.abs(told.values - mean.told[key].values)
            assert 0 < told.std < 1e-5
            assert wrong.max() < 6 * told.std + 1e-7


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 3), (1, 500)])
def test_rows_of_a_secure_sum_of_clients_of_unequal_size_are_replayed_by_their_share(steps, batch):
    settings = small(local_steps=steps, batch_size=batch, secure_aggregation="lightsecagg", cohort=10)
    (one,) = capture(settings, 10)
    exchange = one.view.first
    assert exchange.examples % 10  # else this shows nothing
    assert exchange.rows == len(one.truth) == (10 * steps * batch if batch < 500 else exchange.examples)
    assert exchange.sizes == tuple(len(samples_of(settings, each, 10)) for each in one.partition)
    rows = (torch.from_numpy(one.truth.inputs).double(), torch.from_numpy(one.truth.labels))
    (found,) = Matching(one.view).simulated(*rows)
    sizes, start = exchange.sizes, 0
    mean = dict.fromkeys(found, 0.0)
    for size, seen in zip(sizes, exchange.seen, strict=True):
        held = [part[start : start + seen] for part in (one.truth.inputs, one.truth.labels)]
        # In the order in which the rows come here, which need not be that of the client.
        weights = {key: np.asarray(value, np.float32) for key, value in exchange.weights.items()}
        for begin in range(0, seen, batch):
            part = [each[begin : begin + batch] for each in held]
            moved = gradients(replace(exchange, weights=weights), one.view.public.network(), *part)
            weights = {
                key: weights[key] - np.float32(exchange.training.learning_rate * moved[key])
                for key in weights
            }
        for key in mean:
            mean[key] = mean[key] + size / sum(sizes) * (
                weights[key].astype(np.float64) - exchange.weights[key]
            )
        start += seen
    for key, told in exchange.told.items():
        np.testing.assert_allclose(found[key], mean[key], atol=1e-6)
        if steps == 1:  # several steps see the rows in an order that nobody knows
            np.testing.assert_allclose(found[key], told.values, atol=1e-6 + 6 * told.std)


def test_under_a_secure_sum_the_entries_that_all_clients_draw_are_known():
    mean = mean_exchange([one.view.first for one in capture(small(), CLIENTS)])
    (one,) = capture(small(secure_aggregation="secagg", codec="random_k(0.5)"), CLIENTS)
    for key, told in one.view.first.told.items():
        assert told.mask.sum() == max(1, round(0.5 * told.mask.size))
        np.testing.assert_allclose(told.values[told.mask], mean.told[key].values[told.mask], atol=1e-5)


def test_a_model_that_comes_down_coded_is_not_what_the_server_adds_to_a_secure_sum():
    settings = small(secure_aggregation="secagg", codec="random_k(0.5)", down_codec="uniform(4)")
    (one,) = capture(settings, CLIENTS)
    (exchange,) = one.view.exchanges
    clients = [
        (len(samples_of(settings, each)), retrained(settings, each, exchange)) for each in range(CLIENTS)
    ]
    rows = sum(count for count, _ in clients)
    mean = {key: sum(count * told[key] for count, told in clients) / rows for key in exchange.told}
    check(exchange, mean, atol=1e-5)


def test_noise_that_the_server_adds_is_not_in_what_the_server_saw():
    """The view is of the wire: a defence that begins behind it does not count."""
    settings = small(noise_multiplier=2.0, clipping_norm=0.1)
    for one in capture(settings, CLIENTS)[:2]:
        assert one.view.first.clipping_norm == 0
        check(one.view.first, retrained(settings, one.partition, one.view.first))


def test_noise_that_the_server_adds_is_in_what_is_released():
    settings = small(noise_multiplier=2.0, clipping_norm=0.01, privacy_noise="seeded")
    (one,) = capture(settings, CLIENTS, vantage="released")
    exchange, changes = one.view.first, []
    assert (exchange.clients, exchange.clipping_norm, one.partition) == (CLIENTS, 0.01, tuple(range(CLIENTS)))
    for other in capture(settings, CLIENTS):
        change = {key: told.values for key, told in other.view.first.told.items()}
        norm = np.sqrt(sum(np.sum(values**2) for values in change.values()))
        changes.append({key: values * min(1, 0.01 / norm) for key, values in change.items()})
    share = np.concatenate([
        ((told.values - np.mean([one[key] for one in changes], axis=0)) / told.std).ravel()
        for key, told in exchange.told.items()
    ])  # fmt: skip
    assert np.isclose(np.std(share), 1, atol=0.05)


def test_the_mean_that_fedavg_releases_is_that_of_what_clients_sent():
    (one,) = capture(small(), CLIENTS, vantage="released", rounds=2)
    first, second = one.view.exchanges
    for key, told in first.told.items():
        np.testing.assert_allclose(second.weights[key], first.weights[key] + told.values, atol=1e-7)
    with pytest.raises(AuditError, match="strategy = 'diloco' makes of updates something else"):
        capture(small(strategy="diloco"), CLIENTS, vantage="released")


@pytest.mark.parametrize(
    ("codec", "kind"), [("", "gaussian"), ("", "laplace"), ("random_k(0.5)", "gaussian")]
)
def test_noise_of_the_client_is_in_the_view_and_on_record(codec, kind):
    settings = small(local_noise_multiplier=0.5, local_clipping_norm=10.0, local_noise=kind, codec=codec)
    shares = []
    for one in capture(settings, CLIENTS):
        exchange = one.view.first
        assert (exchange.clipping_norm, exchange.clipping_order) == (10.0, 2 if kind == "gaussian" else 1)
        truly = retrained(settings, one.partition, exchange)
        for key, told in exchange.told.items():
            wrong = (told.values - truly[key]) / told.std
            shares.append(wrong[told.mask])
    assert np.isclose(np.sqrt(np.mean(np.concatenate(shares) ** 2)), 1, atol=0.05)


def test_a_secure_sum_of_noisy_clients_has_their_noise():
    noisy = small(secure_aggregation="lightsecagg", local_noise_multiplier=0.1)
    (one,) = capture(noisy, CLIENTS)
    mean = mean_exchange([other.view.first for other in capture(small(), CLIENTS)])
    share = np.concatenate([
        ((told.values - mean.told[key].values) / told.std).ravel()
        for key, told in one.view.first.told.items()
    ])  # fmt: skip
    assert np.isclose(np.std(share), 1, atol=0.05)
