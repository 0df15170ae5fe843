"""FedLAMA: FedAvg at phi = 1, the discrepancies and intervals of a naive twin, faults."""

import math

import numpy as np
import pytest
from apps.cycles import Tagged
from apps.cycling import SHAPES, Clients, average, close, examples_of, model, play, same, trained
from flwr.app import ConfigRecord

from fedeff.core.errors import ConfigError
from fedeff.core.layers import decode_record, encode_record, group_layers, payload_bytes
from fedeff.strategies.fedlama import FedLAMA, layer_sizes, unit_discrepancies
from fedeff.strategies.spread import SpreadTotal

LAYERS = {"conv": 16, "fc1": 80, "fc2": 30, "scale": 1}


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize("replies", ["shuffled", "streamed"])
@pytest.mark.parametrize("rule", ["inclusive", "strict"])
def test_phi_1_is_fedavg_bit_for_bit(make_grid, fold, replies, rule):
    options = {"cohort": 5, "seed": 4, "fold": fold}
    ours = play(FedLAMA(phi=1, rule=rule, **options), make_grid(Clients(), 9, replies), model("f4"), 5)
    plain = play(Tagged(**options), make_grid(Clients(), 9, replies), model("f4"), 5)
    for one, two in zip(ours, plain, strict=True):
        assert same(one.model, two.model)
        assert one.metrics == two.metrics
        assert one.partitions == two.partitions
        assert "layers-due" not in one.config()


def naive(cohorts, phi, rule, ema, rounds):
    """FedLAMA as written: every client's model, two passes, intervals by shares. Yields what happens."""
    server = decode_record(model())
    layers = group_layers(SHAPES)
    discrepancy = dict.fromkeys(layers, math.nan)
    for server_round in range(1, rounds + 1):
        t = (server_round - 1) % phi
        if t == 0:
            clients = {partition: dict(server) for partition in cohorts[server_round]}
            interval = naive_intervals(discrepancy, phi, rule)
        clients = {p: trained(weights, p, server_round) for p, weights in clients.items()}
        due = [layer for layer in layers if t == phi - 1 or interval[layer] == 1]
        everything = sum(map(examples_of, clients))
        for layer in due:
            mean = average(clients, layers[layer])
            distance = sum(
                examples_of(p) / everything * sum(((mean[k] - w[k]) ** 2).sum() for k in layers[layer])
                for p, w in clients.items()
            )
            new = float(distance) / (interval[layer] * LAYERS[layer])
            known = not math.isnan(discrepancy[layer])
            discrepancy[layer] = ema * discrepancy[layer] + (1 - ema) * new if known else new
            server = {**server, **mean}
            clients = {p: {**weights, **mean} for p, weights in clients.items()}
        yield server, due, dict(discrepancy), dict(interval)


def naive_intervals(discrepancy, phi, rule):
    if any(math.isnan(d) for d in discrepancy.values()):
        return dict.fromkeys(discrepancy, 1)
    interval, delta, part, crossed = {}, 0.0, 0.0, False
    total = sum(d * LAYERS[layer] for layer, d in discrepancy.items())
    for layer in sorted(discrepancy, key=discrepancy.get):
        delta += discrepancy[layer] * LAYERS[layer] / total
        part += LAYERS[layer] / sum(LAYERS.values())
        holds = not crossed and delta < 1 - part
        relaxed = holds or (rule == "inclusive" and not crossed)
        crossed = crossed or not holds
        interval[layer] = phi if relaxed else 1
    return interval


@pytest.mark.parametrize("fold", ["server", "workers"])
@pytest.mark.parametrize(
    ("phi", "rule", "ema"), [(2, "inclusive", 0), (4, "strict", 0), (3, "inclusive", 0.5)]
)
def test_it_agrees_with_a_naive_twin_in_every_round(make_grid, phi, rule, ema, fold):
    strategy = FedLAMA(phi=phi, rule=rule, discrepancy_ema=ema, cohort=5, seed=1, fold=fold)
    played = play(strategy, make_grid(Clients(), 9, "streamed"), model(), 4 * phi)
    cohorts = {one.server_round: one.partitions for one in play_again(phi, make_grid)}
    seen = set()
    for one, twin in zip(played, naive(cohorts, phi, rule, ema, 4 * phi), strict=True):
        server, due, discrepancy, interval = twin
        close(one.arrays, server, rtol=1e-11)
        assert one.synchronised == tuple(due)
        assert strategy.discrepancies == pytest.approx(discrepancy, rel=1e-9, nan_ok=True)
        assert strategy.intervals == interval
        assert one.refused == ()
        seen.add(tuple(due))
    assert len(seen) > 1  # some layers were left out somewhere


def play_again(phi, make_grid):
    return play(FedLAMA(phi=phi, cohort=5, seed=1), make_grid(Clients(), 9), model(), 4 * phi)


def test_the_first_cycle_averages_every_layer_in_every_round(make_grid):
    played = play(FedLAMA(phi=3), make_grid(Clients(), 4), model(), 3)
    assert [one.synchronised for one in played] == [tuple(LAYERS)] * 3


def test_only_what_is_due_goes_up_and_only_what_was_averaged_comes_down(make_grid):
    clients = Clients()
    strategy, grid = FedLAMA(phi=2, rule="strict"), make_grid(clients, 4)
    seen = list(play(strategy, grid, model(), 6))
    relaxed = {layer for layer, every in strategy.intervals.items() if every == 2}
    assert 0 < len(relaxed) < len(LAYERS)
    due = [key for key in SHAPES if (key.rpartition(".")[0] or key) not in relaxed]
    assert seen[4].config()["layers-due"] == due
    assert list(seen[5].messages[0].content["arrays"]) == due
    reply = clients(0, seen[4].messages[0])
    assert payload_bytes(reply.content) == sum(len(model()[key].data) for key in due)


def test_where_nobody_answers_layers_and_discrepancies_stay(make_grid):
    clients = Clients({(partition, 4): "reply" for partition in range(4)})
    strategy = FedLAMA(phi=2)
    played = play(strategy, make_grid(clients, 4), model(), 4)
    for _ in range(3):
        last = next(played)
        before = strategy.discrepancies
    after = next(played)
    assert clients.fired == {"reply": 4}
    assert same(after.model, last.model)
    assert strategy.discrepancies == before
    assert strategy.cycle_ended


def test_one_client_alone_drifts_from_nobody(make_grid):
    strategy = FedLAMA(phi=2)
    seen = list(play(strategy, make_grid(Clients(), 1), model(), 4))
    assert strategy.discrepancies == dict.fromkeys(LAYERS, 0.0)
    assert [one.synchronised for one in seen] == [tuple(LAYERS)] * 4


def test_discrepancies_by_hand():
    total = SpreadTotal(weight=4.0, sums=dict.fromkeys(["a.w", "a.b", "c.n"], np.zeros(1)))
    total.spreads = {"a.w": 30.0, "a.b": 10.0}
    found = unit_discrepancies(total, {"a": 5, "c": 0, "other": 9}, {"a": 2, "c": 1, "other": 1})
    assert found == {"a": 1.0, "c": 0.0}


def test_counts_of_batches_are_no_parameters():
    arrays = {"bn.weight": np.ones(3, np.float32), "bn.count": np.array(7), "fc.weight": np.ones((2, 3))}
    assert layer_sizes(encode_record(arrays)) == {"bn": 3, "fc": 6}
    assert layer_sizes(model()) == LAYERS


def test_the_discrepancies_are_known_only_after_a_round(make_grid):
    strategy = FedLAMA()
    assert strategy.discrepancies == {}
    strategy.configure_train(1, model(), ConfigRecord(), make_grid(Clients(), 3))
    assert all(math.isnan(value) for value in strategy.discrepancies.values())
    assert strategy.intervals == dict.fromkeys(LAYERS, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phi": 0}, "phi is 0, expected 1 or more"),
        ({"rule": "exclusive"}, "unknown rule 'exclusive'; did you mean 'inclusive'"),
        ({"discrepancy_ema": 1.0}, r"discrepancy_ema is 1.0, expected a weight in \[0, 1\)"),
        ({"discrepancy_ema": math.nan}, "discrepancy_ema is nan"),
        ({"cohort": 0}, "cohort is 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FedLAMA(**options)
