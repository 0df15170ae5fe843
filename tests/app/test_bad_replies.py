"""One client that answers nonsense is refused, on record, and the run goes on as if it had not been asked."""

import functools

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.layers import decode_record
from fedeff.simulation import run_simulation

CLIENTS, BAD = 4, 2
NAN, INFINITE = float("nan"), float("inf")


def other_keys(reply, kind):
    first, *_ = reply["arrays"]
    reply["arrays"] = ArrayRecord({f"{first}.other": reply["arrays"][first]})


def not_finite(reply, kind):
    arrays = {key: Array(np.full_like(one.numpy(), NAN)) for key, one in reply["arrays"].items()}
    reply["arrays"] = ArrayRecord(arrays)


def wrong_shapes(reply, kind):
    reply["arrays"] = ArrayRecord(
        {key: Array(one.numpy().reshape(-1)) for key, one in reply["arrays"].items()}
    )


def garbled(reply, kind):
    arrays = dict(reply["arrays"].items())
    for one in arrays.values():
        one.data = one.data[:-1]
    reply["arrays"] = ArrayRecord(arrays)


def oversized(reply, kind):
    reply["extra"] = ConfigRecord({"x": b"." * 2**21})


def no_metrics(reply, kind):
    del reply["metrics"]


def weightless(reply, kind):
    reply["metrics"] = MetricRecord({**reply["metrics"], "num-examples": NAN})


def heavy_beyond_measure(reply, kind):
    reply["metrics"] = MetricRecord({**reply["metrics"], "num-examples": INFINITE})


def nothing(reply, kind):
    for key in list(reply):
        del reply[key]


TRAIN = [
    other_keys,
    not_finite,
    wrong_shapes,
    garbled,
    oversized,
    no_metrics,
    weightless,
    heavy_beyond_measure,
    nothing,
]
EVALUATE = [oversized, no_metrics, weightless, heavy_beyond_measure, nothing]


def ran(spoil=None, kind="train", **changes):
    """Records and final model of a run in which one client's replies of a kind are spoilt."""
    settings = Settings(
        dataset="digits",
        model="logistic",
        cohort=CLIENTS,
        num_server_rounds=2,
        local_steps=2,
        vectorise="never",
        **changes,
    )
    app = client_app_of(settings)

    def client(message: Message, context):
        reply = app(message, context)
        partition = context.node_config["partition-id"]
        if spoil and partition == BAD and message.metadata.message_type == kind:
            spoil(reply.content, kind)
        return reply

    records = []
    result = run_simulation(
        server_app(on_round=records.append),
        client,
        CLIENTS,
        engine="inline",
        run_config=settings.run_config(),
    )
    return records, decode_record(result.context.state["model"])


@pytest.mark.parametrize(
    ("spoil", "codec"),
    # What a codec sends is bytes, which have neither NaN nor another shape.
    [(spoil, "") for spoil in TRAIN]
    + [(spoil, "top_k(0.5)") for spoil in TRAIN if spoil not in (not_finite, wrong_shapes)],
    ids=lambda one: getattr(one, "__name__", one or "plain"),
)
def test_a_bad_train_reply_is_refused_and_the_others_count(spoil, codec):
    records, model = ran(spoil, codec=codec)
    assert [record.refused for record in records] == [1, 1]
    assert all(np.isfinite(values).all() for values in model.values())
    expected = without_the_bad_one(codec)
    assert {key: values.tobytes() for key, values in model.items()} == expected


@functools.cache
def without_the_bad_one(codec):
    """The model that those make who answer well: the bad one's replies are errors."""

    def failing(reply, kind):
        raise ValueError("no reply")

    return {key: values.tobytes() for key, values in ran(failing, codec=codec)[1].items()}


@pytest.mark.parametrize("spoil", EVALUATE, ids=lambda spoil: spoil.__name__)
def test_a_bad_evaluate_reply_does_not_end_the_run(spoil):
    records, model = ran(spoil, "evaluate", evaluate_clients=CLIENTS)
    _, expected = ran(evaluate_clients=CLIENTS)
    assert {key: values.tobytes() for key, values in model.items()} == {
        key: values.tobytes() for key, values in expected.items()
    }
    assert all(np.isfinite(list(record.evaluate_metrics.values())).all() for record in records)


def test_a_loss_that_is_no_number_is_left_out_of_the_mean():
    def lossless(reply, kind):
        reply["metrics"] = MetricRecord({**reply["metrics"], "train-loss": NAN})

    records, model = ran(lossless)
    assert [record.refused for record in records] == [0, 0]
    assert all(np.isfinite(list(record.train_metrics.values())).all() for record in records)
    assert {k: v.tobytes() for k, v in model.items()} == {k: v.tobytes() for k, v in ran()[1].items()}


def test_the_limit_can_be_set():
    records, _ = ran(largest_reply_bytes=100_000)
    assert [record.refused for record in records] == [0, 0]
    with pytest.raises(Exception, match=r"all 4 clients failed; first: the reply of node \d+ has \d+ bytes"):
        ran(largest_reply_bytes=100)
