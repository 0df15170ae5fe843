"""Secure rounds under strategies of ours: the plain quantised sum bit for bit, whoever is lost."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedeff.clients import codec_mod
from fedeff.compression import RecordCodec
from fedeff.core.errors import ConfigError, FedeffError
from fedeff.core.flower import reply_content
from fedeff.core.layers import decode_record, encode_record
from fedeff.core.parts import put, take
from fedeff.grids import CodecGrid, MeteredGrid
from fedeff.secure import PROTOCOLS, SecureGrid, SecureMod, SecureOptions
from fedeff.secure.wire import RECORD
from fedeff.simulation import run_simulation
from fedeff.strategies import FedAvg, FedLAMA, PartialAvg

CLIENTS = 5
MODEL = {
    "a.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    "a.count": np.array(2**33, np.int64),
    "b.weight": np.full(5, 0.25, np.float32),
}
Loses = Callable[[Message, int], bool]


def trained(arrays: Mapping[str, np.ndarray], partition: int, server_round: int) -> dict[str, np.ndarray]:
    """What a client makes of the model: something of its own."""
    rng = np.random.default_rng((partition, server_round))
    return {
        key: values
        + (rng.normal(0, 0.1, values.shape).astype(values.dtype) if values.dtype.kind == "f" else 3)
        for key, values in arrays.items()
    }


def client_app(mods: list[Any], loses: Loses = lambda message, partition: False) -> ClientApp:
    app = ClientApp()

    def losing(message: Message, context: Context, call_next: Any) -> Message:
        if loses(message, int(context.node_config["partition-id"])):
            raise RuntimeError("lost on the way")
        return call_next(message, context)

    @app.train(mods=[losing, *mods])
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        partition = int(context.node_config["partition-id"])
        kept = decode_record(context.state.get("model", ArrayRecord()))
        sent = decode_record(message.content["arrays"])
        arrays = put(kept, sent) if kept else sent
        new = trained(arrays, partition, int(config["server-round"]))
        context.state["model"] = encode_record(new)
        due = config.get("layers-due")
        metrics = {
            "num-examples": 10 * partition + 7,
            "partition-id": partition,
            "train-loss": 0.5 * partition,
        }
        return Message(
            reply_content(encode_record(take(new, due) if due else new), metrics), reply_to=message
        )

    return app


def run(
    strategy: FedAvg,
    app: ClientApp,
    wrapped: Callable[[Grid], Grid] = lambda grid: grid,
    rounds: int = 2,
    engine: str = "inline",
) -> dict[str, np.ndarray]:
    server = ServerApp()
    final: dict[str, ArrayRecord] = {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        result = strategy.start(wrapped(grid), encode_record(MODEL), num_rounds=rounds)
        final["model"] = result.arrays or encode_record(MODEL)  # where no round gave one

    run_simulation(server, app, CLIENTS, engine=engine, seed=1)
    return {key: values.copy() for key, values in decode_record(final["model"]).items()}


class PlainQuantised(SecureGrid):
    """The very sums without masks: clients answer in the clear and their vectors are added here."""

    def _round(self, messages, fold, timeout):
        from fedeff.core.field import PRIME
        from fedeff.grids.cohort import Folded
        from fedeff.secure.secure_mod import base_of
        from fedeff.strategies.weighted_sum import read_update

        plan = self._plan(messages, fold)
        base = base_of(messages[0].content, plan)
        replies = [r for r in self.grid.send_and_receive(messages, timeout=timeout) if not r.has_error()]
        vectors = [plan.vector(read_update(r, plan.layout, plan.weighted_by), base) for r in replies]
        total = plan.total(np.mod(sum(vectors), PRIME), base)
        total.replies, total.nodes = len(replies), [r.metadata.src_node_id for r in replies]
        return [Folded(total, ())]


def secure(**options: Any) -> Callable[[Grid], SecureGrid]:
    return lambda grid: SecureGrid(grid, SecureOptions(**options))


STRATEGIES: dict[str, Callable[[], FedAvg]] = {
    "fedavg": lambda: FedAvg(fold="workers"),
    "fedlama": lambda: FedLAMA(phi=2, fold="workers"),
    "partial": lambda: PartialAvg(groups=2, by="channel", fold="workers"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_secure_run_is_the_plain_quantised_one_bit_for_bit(name, protocol):
    found = run(STRATEGIES[name](), client_app([SecureMod()]), secure(protocol=protocol), 4)
    plain = run(STRATEGIES[name](), client_app([]), PlainQuantised, 4)
    for key in MODEL:
        assert found[key].tobytes() == plain[key].tobytes(), key
    exact = run(STRATEGIES[name](), client_app([]), rounds=4)
    assert found["a.count"] == exact["a.count"]
    for key in ("a.weight", "b.weight"):
        np.testing.assert_allclose(found[key], exact[key], atol=1e-4)
        assert not np.array_equal(found[key], MODEL[key])


def test_fedlama_measures_the_same_discrepancies_and_relaxes_the_same_layers():
    one, two = STRATEGIES["fedlama"](), STRATEGIES["fedlama"]()
    assert isinstance(one, FedLAMA)
    assert isinstance(two, FedLAMA)
    run(one, client_app([SecureMod()]), secure(), 4)
    run(two, client_app([]), rounds=4)
    assert one.intervals == two.intervals
    assert one.discrepancies == pytest.approx(two.discrepancies, rel=1e-3)


def test_two_actors_give_the_inline_bits(cluster: None) -> None:
    runs = [
        run(STRATEGIES["fedlama"](), client_app([SecureMod()]), secure(protocol="secagg"), engine=engine)
        for engine in ("inline", "ray")
    ]
    assert all(runs[0][key].tobytes() == runs[1][key].tobytes() for key in MODEL)


class Lost:
    """Loses a partition's messages of one exchange of a round, and counts them; 1 is the first exchange."""

    def __init__(self, *, partitions: tuple[int, ...], step: int) -> None:
        self.partitions, self.step, self.count = partitions, step, 0

    def __call__(self, message: Message, partition: int) -> bool:
        lost = partition in self.partitions and message.content[RECORD]["step"] == self.step
        self.count += lost
        return lost


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_client_lost_at_any_exchange_is_not_in_the_sum_but_for_the_last(step, protocol):
    lost, grids = Lost(partitions=(2,), step=step), []
    strategy = STRATEGIES["fedavg"]()

    def wrapped(grid: Grid) -> Grid:
        grids.append(SecureGrid(MeteredGrid(grid), SecureOptions(protocol=protocol, privacy=0.1)))
        return grids[0]

    found = run(strategy, client_app([SecureMod()], lost), wrapped, 1)
    without = client_app([], lambda message, partition: partition == 2)
    plain = run(STRATEGIES["fedavg"](), client_app([]) if step == 4 else without, PlainQuantised, 1)
    assert all(found[key].tobytes() == plain[key].tobytes() for key in MODEL)
    assert lost.count == 1
    measures = grids[0].measures
    assert (measures["secure-in-sum"], measures["secure-lost"]) == ((5, 0) if step == 4 else (4, 1))
    assert [refusal.reason for refusal in strategy.failed] == [f"{RuntimeError}:<'lost on the way'>"]
    exchanges = grids[0].grid.exchanges
    assert [e.arrived for e in exchanges] == [4 if number >= step else 5 for number in (1, 2, 3, 4)]
    assert measures["secure-shares-bytes"] < exchanges[1].uplink_bytes + exchanges[1].downlink_bytes + 1
    assert measures["secure-reveal-bytes"] == exchanges[3].uplink_bytes + exchanges[3].downlink_bytes


def test_too_few_leave_the_model_as_it_is_and_the_run_goes_on():
    lost = Lost(partitions=(1, 2), step=3)

    def in_round_1(message: Message, partition: int) -> bool:
        return message.content["config"]["server-round"] == 1 and lost(message, partition)

    strategy = STRATEGIES["fedlama"]()
    found = run(strategy, client_app([SecureMod()], in_round_1), secure(), 1)
    assert all(found[key].tobytes() == MODEL[key].tobytes() for key in MODEL)
    assert lost.count == 2
    assert len(strategy.failed) == CLIENTS
    assert sum("3 of 5 clients are left after step INPUT" in one.reason for one in strategy.failed) == 3
    later = run(STRATEGIES["fedlama"](), client_app([SecureMod()], in_round_1), secure(), 2)
    assert not np.array_equal(later["a.weight"], MODEL["a.weight"])


def test_clients_answer_nothing_in_the_clear():
    """A server without secure aggregation gets errors; one that sends a plan of other sizes, too."""
    strategy = FedAvg()
    found = run(strategy, client_app([SecureMod()]), rounds=1)
    assert all(found[key].tobytes() == MODEL[key].tobytes() for key in MODEL)
    assert len(strategy.failed) == CLIENTS
    assert all("outside of secure aggregation" in one.reason for one in strategy.failed)


def test_what_goes_up_holds_no_metric_but_the_partition():
    seen: list[Message] = []

    class Watching(MeteredGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            seen.extend(replies)
            return replies

    grids: list[SecureGrid] = []

    def wrapped(grid: Grid) -> Grid:
        grids.append(SecureGrid(Watching(grid)))
        return grids[0]

    run(STRATEGIES["fedavg"](), client_app([SecureMod()]), wrapped, 1)
    assert len(seen) == 4 * CLIENTS
    assert {tuple(reply.content["metrics"]) for reply in seen} == {("partition-id",)}
    assert not any(isinstance(one, ConfigRecord) for reply in seen for one in reply.content.values())
    weights = np.arange(CLIENTS) * 10 + 7
    expected = float((weights * 0.5 * np.arange(CLIENTS)).sum() / weights.sum())
    assert grids[0].measures["secure-train-loss"] == pytest.approx(expected, abs=1e-5)
    assert "secure-num-steps" not in grids[0].measures  # no client told it


@pytest.mark.parametrize("codec", ["half", "random_k(0.5)", "per_layer({'a.*': raw, '*': random_k(0.4)})"])
def test_linear_codecs_are_decoded_as_a_sum(codec):
    options: dict[str, Any] = {"codec": codec}
    found = run(STRATEGIES["fedavg"](), client_app([SecureMod()]), secure(**options), 1)
    plain = run(
        STRATEGIES["fedavg"](), client_app([]), lambda grid: PlainQuantised(grid, SecureOptions(**options)), 1
    )
    assert all(found[key].tobytes() == plain[key].tobytes() for key in MODEL)
    exact = run(STRATEGIES["fedavg"](), client_app([]), rounds=1)
    moved, wanted = found["b.weight"] - MODEL["b.weight"], exact["b.weight"] - MODEL["b.weight"]
    kept = moved != 0
    assert kept.sum() == {"half": 5, "random_k(0.5)": 2}.get(codec, 2)
    scale = 1 if codec == "half" else 5 / 2
    np.testing.assert_allclose(moved[kept], scale * wanted[kept], rtol=2e-3, atol=1e-4)


def test_models_may_come_coded():
    found = run(
        STRATEGIES["fedavg"](),
        client_app([codec_mod, SecureMod()]),
        lambda grid: SecureGrid(CodecGrid(grid, down=RecordCodec.of("half"), down_difference=True)),
    )
    plain = run(STRATEGIES["fedavg"](), client_app([SecureMod()]), secure())
    np.testing.assert_allclose(found["a.weight"], plain["a.weight"], atol=2e-3)


@pytest.mark.parametrize("codec", ["top_k(0.1)", "tern_grad", "qsgd", "power_sgd(2)", "error_feedback(half)"])
def test_codecs_that_are_not_linear_are_refused_by_name(codec):
    with pytest.raises(ConfigError, match=f"codec '{codec.split('(')[0]}' .*take raw, half, random_k"):
        SecureOptions(codec=codec)


def test_strategies_that_look_at_single_replies_are_refused():
    with pytest.raises(FedeffError, match="the strategy wants replies one by one"):
        run(FedAvg(), client_app([SecureMod()]), secure())


def test_a_codec_that_tells_differences_needs_the_arrays_in_the_message():
    with pytest.raises(FedeffError, match="is to be told as a difference, but the message does not hold it"):
        run(PartialAvg(groups=2, fold="workers"), client_app([SecureMod()]), secure(codec="half"), 3)


def test_overflow_is_refused_before_anything_is_sent():
    sent = []

    class Counting(MeteredGrid):
        def send_and_receive(self, messages, *, timeout=None):
            sent.append(messages)
            return super().send_and_receive(messages, timeout=timeout)

    with pytest.raises(FedeffError, match="could overflow a sum"):
        run(
            STRATEGIES["fedavg"](),
            client_app([SecureMod()]),
            lambda grid: SecureGrid(Counting(grid), SecureOptions(fraction_bits=20)),
        )
    assert sent == []


def test_options_out_of_range_are_refused():
    for wrong in ({"dropout": 0.5}, {"privacy": 0.0}, {"clip": -1.0}, {"protocol": "plain"}):
        with pytest.raises(ConfigError):
            SecureOptions(**wrong)


def test_a_client_beyond_the_clip_is_left_out():
    strategy = STRATEGIES["fedavg"]()
    run(strategy, client_app([SecureMod()]), secure(clip=0.01), 1)
    assert len(strategy.failed) == CLIENTS
    assert "expected at most 0.01" in strategy.failed[0].reason
