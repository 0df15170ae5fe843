import pickle
import threading

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedeff.clients.app as app_module
from fedeff.clients import ClientData, LocalTraining, client_app
from fedeff.core.errors import ConfigError, DataError, FedeffError, ReplyError
from fedeff.models import build

SIZES = [12, 3, 20, 10, 0]
KEYS = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]


def mlp():
    return build("mlp", input_shape=(1, 6, 6))


def data(partition, partitions):
    rng, size = np.random.default_rng(partition), SIZES[partition]
    images = rng.integers(0, 256, (size, 1, 6, 6), np.uint8)
    return ClientData(images, rng.integers(0, 10, size), images[:2], rng.integers(0, 10, size)[:2])


def make_app(training=None, **settings):
    return client_app(mlp, data, training or LocalTraining(), **settings)


def arrays(reply):
    return {key: array.numpy() for key, array in reply.content["arrays"].items()}


def equal(first, second):
    return all(np.array_equal(values, arrays(second)[key]) for key, values in arrays(first).items())


@pytest.fixture
def block_of(request_to):
    """Messages and contexts for the clients given."""
    return lambda clients, **config: tuple(
        zip(*(request_to(mlp(), c, **config) for c in clients), strict=True)
    )


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_one_client_answers_in_any_flower_runtime(kind, request_to):
    message, context = request_to(mlp(), 2, kind=kind, server_round=3)
    app = make_app()
    assert isinstance(app, ClientApp)
    reply = app(message, context)
    assert reply.metadata.message_type == kind
    metrics = reply.content["metrics"]
    assert metrics["partition-id"] == 2
    if kind == "train":
        assert (metrics["num-examples"], metrics["num-steps"]) == (20, 2)
        assert 1 < metrics["train-loss"] < 4
        assert list(reply.content["arrays"]) == KEYS
    else:
        assert metrics["num-examples"] == 2
        assert metrics.keys() == {"num-examples", "partition-id", "eval-loss", "eval-accuracy"}
        assert list(reply.content) == ["metrics"]


def test_a_block_agrees_with_its_clients_one_by_one(block_of):
    messages, contexts = block_of([3, 0, 2, 1], server_round=1)
    app = make_app()
    singly = [app(m, c) for m, c in zip(messages, contexts, strict=True)]
    for mode, tolerance in (("never", 0.0), ("auto", 1e-5), ("always", 1e-5)):
        for one, reply in zip(singly, make_app(vectorise=mode).run_block(messages, contexts), strict=True):
            assert reply.content["metrics"]["partition-id"] == one.content["metrics"]["partition-id"]
            assert reply.content["metrics"]["num-steps"] == one.content["metrics"]["num-steps"]
            for key, values in arrays(one).items():
                np.testing.assert_allclose(arrays(reply)[key], values, rtol=0, atol=tolerance)


def test_the_loop_gives_the_same_bits_whatever_the_block(block_of):
    app = make_app(vectorise="never")
    together = app.run_block(*block_of([0, 1, 2], server_round=1))
    apart = [make_app(vectorise="never").run_block(*block_of([c], server_round=1))[0] for c in (0, 1, 2)]
    assert all(map(equal, together, apart))


def test_round_partition_and_seed_draw_other_batches(request_to):
    def train(partition, server_round, seed=0):
        app = client_app(mlp, lambda *_: data(2, 10), LocalTraining(), seed=seed)  # all hold the same samples
        return app(*request_to(mlp(), partition, server_round=server_round))

    first = train(partition=2, server_round=1)
    assert equal(first, train(partition=2, server_round=1))
    assert not equal(first, train(partition=2, server_round=2))
    assert not equal(first, train(partition=3, server_round=1))
    assert not equal(first, train(partition=2, server_round=1, seed=1))


@pytest.mark.parametrize("mode", ["never", "always"])
def test_only_the_layers_due_are_sent(mode, block_of):
    messages, contexts = block_of([0, 1], layers_due=["fc2.bias", "fc1.weight"])
    full = make_app(vectorise=mode).run_block(*block_of([0, 1]))
    for part, whole in zip(make_app(vectorise=mode).run_block(messages, contexts), full, strict=True):
        assert list(part.content["arrays"]) == ["fc1.weight", "fc2.bias"]
        assert equal(part, whole)


def test_messages_of_one_block_may_ask_for_different_training(request_to):
    pairs = [
        request_to(mlp(), 0, local_steps=n, learning_rate=rate) for n, rate in ((1, 0.1), (3, 0.1), (3, 0.2))
    ]
    pairs += [request_to(mlp(), 0, kind="evaluate"), request_to(mlp(), 0, local_steps=1, learning_rate=0.1)]
    replies = make_app(vectorise="always").run_block(*zip(*pairs, strict=True))
    assert [r.content["metrics"].get("num-steps") for r in replies] == [1, 3, 3, None, 1]
    assert not equal(replies[1], replies[2])
    for message, reply in zip(pairs, replies, strict=True):
        alone = make_app()(*message)
        if "arrays" in reply.content:
            for key, values in arrays(reply).items():
                np.testing.assert_allclose(values, arrays(alone)[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["never", "auto", "always"])
def test_a_client_without_samples_is_its_own_error(mode, block_of):
    results = make_app(vectorise=mode).run_block(*block_of([0, 4, 1]))
    assert isinstance(results[1], DataError)
    assert "client 4 of 10 has no train samples" in str(results[1])
    assert isinstance(results[0], Message)
    assert isinstance(results[2], Message)


@pytest.mark.parametrize("mode", ["never", "always"])
def test_divergence_is_an_error_of_the_client(mode, block_of, request_to):
    messages, contexts = block_of([0, 1], learning_rate=0.1)
    broken = mlp()
    torch.nn.init.constant_(broken.fc2.bias, float("nan"))
    message, context = request_to(broken, 2, server_round=4, learning_rate=0.1)
    results = make_app(vectorise=mode).run_block([*messages, message], [*contexts, context])
    assert [type(result) for result in results] == [Message, Message, ReplyError]
    assert "client 2 diverged in round 4" in str(results[2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rate": "fast"}, "learning-rate is 'fast'"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"local_epochs": -1}, "local-epochs is -1"),
        ({"proximal_mu": -1.0}, "prox-mu is -1.0"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"server_round": -1}, "server-round is -1"),
        ({"layers_due": ["fc1.wieght"]}, "did you mean 'fc1.weight'"),
        ({"layers_due": "fc1.weight"}, "must be a list"),
    ],
)
def test_wrong_configs_are_refused_singly_and_in_blocks(config, message, request_to):
    with pytest.raises(ConfigError, match=message):
        make_app()(*request_to(mlp(), 0, **config))
    pairs = [request_to(mlp(), 0, **config), request_to(mlp(), 1)]
    results = make_app(vectorise="always").run_block(*zip(*pairs, strict=True))
    assert isinstance(results[0], ConfigError)
    assert isinstance(results[1], Message)


def test_messages_and_contexts_that_lack_something_are_refused(request_to):
    message, context = request_to(mlp(), 0)
    bare = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ConfigError, match="a client needs 'arrays'"):
        make_app()(bare, context)
    with pytest.raises(ConfigError, match="'partition-id' is None"):
        make_app()(message, Context(1, 1, {}, RecordDict(), {}))
    other = build("logistic", input_shape=(1, 6, 6)).state_dict()
    wrong = Message(RecordDict({"arrays": ArrayRecord(other)}), dst_node_id=1, message_type="train")
    with pytest.raises(ConfigError, match="build the same model"):
        make_app()(wrong, context)
    message.content.pop("config")
    assert make_app()(message, context).content["metrics"]["num-steps"] == 2


def test_auto_uses_blocks_where_they_pay_and_only_there(block_of, monkeypatch):
    calls = []
    real = app_module.train_block
    monkeypatch.setattr(app_module, "train_block", lambda *a: calls.append(len(a[1])) or real(*a))
    make_app().run_block(*block_of([0, 1, 2]))
    make_app().run_block(*block_of([0]))  # alone, it goes by the loop
    make_app(vectorise="never").run_block(*block_of([0, 1, 2]))
    make_app(LocalTraining(autocast=True)).run_block(*block_of([0, 1, 2]))
    make_app(mods=[lambda m, c, call: call(m, c)]).run_block(*block_of([0, 1, 2]))
    assert calls == [3]


def test_auto_falls_back_to_the_loop_and_says_so_once(block_of, caplog):
    class Moody(torch.nn.Module):
        """Its way depends on its data, which `vmap` cannot follow."""

        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(36, 10)

        def forward(self, x):
            x = self.fc(x.flatten(1))
            return x if x.sum() > 0 else x * 2

    state = ArrayRecord(Moody().state_dict())
    messages, contexts = block_of([0, 1])
    for message in messages:
        message.content["arrays"] = state
    app = client_app(Moody, data, LocalTraining())
    for _ in range(2):
        assert all(isinstance(r, Message) for r in app.run_block(messages, contexts))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    always = client_app(Moody, data, LocalTraining(), vectorise="always").run_block(messages, contexts)
    assert all(isinstance(result, Exception) for result in always)


def test_mods_see_every_message_of_a_block(block_of):
    seen = []

    def mod(message, context, call):
        seen.append(context.node_config["partition-id"])
        return call(message, context)

    make_app(mods=[mod], vectorise="always").run_block(*block_of([2, 0, 1]))
    assert seen == [2, 0, 1]


def test_a_used_app_travels_to_another_process_without_its_model(request_to):
    app = make_app()
    size = len(pickle.dumps(app))
    first = app(*request_to(mlp(), 2))
    assert len(pickle.dumps(app)) < size + 200
    assert equal(pickle.loads(pickle.dumps(app))(*request_to(mlp(), 2)), first)


def test_messages_are_left_as_they_came(block_of):
    messages, contexts = block_of([0, 1, 2])
    before = [{k: a.data for k, a in m.content["arrays"].items()} for m in messages]
    make_app(vectorise="always").run_block(messages, contexts)
    assert [{k: a.data for k, a in m.content["arrays"].items()} for m in messages] == before
    assert all(not context.state for context in contexts)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'always'"):
        make_app(vectorise="allways")
    with pytest.raises(ConfigError, match="seed is -1"):
        make_app(seed=-1)
    if not torch.cuda.is_available():
        with pytest.raises(FedeffError, match="sees no GPU"):
            assert make_app(LocalTraining(device="cuda")).block_size


def test_training_uses_one_thread(request_to):
    torch.set_num_threads(2)
    make_app()(*request_to(mlp(), 0))
    assert torch.get_num_threads() == 1
    assert threading.active_count() < 20


@pytest.mark.parametrize(("vectorise", "expected"), [("auto", None), ("never", None), ("always", 50)])
def test_an_engine_is_told_whether_to_hand_over_blocks(vectorise: str, expected: int | None) -> None:
    """A CNN does not gain from vectors on a CPU, so "auto" offers none; an MLP does."""

    def data(partition: int, partitions: int) -> ClientData:
        raise AssertionError("nothing is trained here")

    made = client_app(lambda: build("cnn"), data, LocalTraining(), vectorise=vectorise)
    assert made.block_size == expected
    mlp = client_app(lambda: build("mlp"), data, LocalTraining(), vectorise=vectorise)
    assert mlp.block_size == (None if vectorise == "never" else 50)
