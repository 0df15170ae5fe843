"""Naive clients that gather gradients (`procedure: accumulate`), and rounds of them."""

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedeff.core.layers import decode_record, encode_record, group_layers
from fedeff.core.lists import NO_PART, entries

MODEL = encode_record(
    {
        "conv.weight": np.ones((2, 3)),
        "fc.weight": np.ones((3, 2)),
        "conv.bias": np.zeros(2),
        "fc.steps": np.array(7),
    }
)
LAYERS = group_layers(MODEL)
CONV, FC = list(LAYERS["conv"]), list(LAYERS["fc"])


class Members:
    """A naive client of `procedure: accumulate`; `gradient(partition, weights, server_round)` by key."""

    def __init__(self, make_reply, gradient):
        self.make_reply, self.gradient, self.kept = make_reply, gradient, {}

    def __call__(self, partition, message):
        config, node = message.content["config"], message.metadata.dst_node_id
        assert config["procedure"] == "accumulate"
        tag, sent = (config["cycle"], config["cycle-round"]), decode_record(message.content["arrays"])
        last, weights, gathered = self.kept.get(partition, (None, {}, {}))
        if set(sent) != set(MODEL) and last != (tag[0], tag[1] - 1):
            return need_full(partition, node)
        weights = {**weights, **sent}
        gathered = gathered if last and last[0] == tag[0] else {}
        gradient = self.gradient(partition, weights, config["server-round"])
        metrics, reply = {"train-loss": 1.0}, {}
        for layer, keys in LAYERS.items():
            one = {key: gradient.get(key, np.zeros(weights[key].shape)) for key in keys}
            total, count = gathered.get(layer, ({key: np.zeros(weights[key].shape) for key in keys}, 0))
            metrics[f"agreement:{layer}"] = cosine(total, one) if count else 1.0
            gathered[layer] = {key: total[key] + one[key] for key in keys}, count + 1
        for key in entries(config.get("layers-due", list(weights)), NO_PART):
            layer = key.split(".")[0]
            total, count = gathered[layer]
            reply[key] = np.asarray(total[key] / count).astype(weights[key].dtype)
        for layer in group_layers(reply):
            del gathered[layer]
        self.kept[partition] = tag, weights, gathered
        return self.make_reply(partition, reply, partition + 1, node=node, metrics=metrics)


def need_full(partition, node):
    request = Message(RecordDict(), dst_node_id=node, message_type="train")
    metrics = MetricRecord({"num-examples": 0, "need-full": 1, "partition-id": partition})
    return Message(RecordDict({"metrics": metrics}), reply_to=request)


def cosine(one, two) -> float:
    one, two = (np.concatenate([values.ravel() for values in arrays.values()]) for arrays in (one, two))
    lengths = np.linalg.norm(one) * np.linalg.norm(two)
    return float(one @ two / lengths) if lengths else 1.0


def noisy(partition, weights, server_round):
    """Towards zero, with noise: most in "fc", whose gradients therefore agree less."""
    rng = np.random.default_rng([partition, server_round])
    return {
        key: values + (3.0 if key.startswith("fc") else 0.3) * rng.normal(size=values.shape)
        for key, values in weights.items()
        if values.dtype.kind == "f"
    }


def one_round(strategy, grid, server_round, model=MODEL):
    messages = strategy.configure_train(server_round, model, ConfigRecord(), grid)
    merged, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
    return model if merged is None else merged


def run(strategy, grid, rounds, model=MODEL):
    for server_round in rounds:
        model = one_round(strategy, grid, server_round, model)
    return model


def same(one, two) -> bool:
    return list(one) == list(two) and all(one[key].data == two[key].data for key in one)


def configs(grid):
    return [messages[0].content["config"] for messages in grid.sent]


def naive(gradient, partitions, rounds, *, learning_rate, theta, c_max, cycle_rounds):
    """The weights after the rounds, with all members in one place and nothing sent anywhere."""
    weights, shares = decode_record(MODEL), [partition + 1 for partition in partitions]
    keys = {layer: [key for key in own if key != "fc.steps"] for layer, own in LAYERS.items()}
    for server_round in rounds:
        cycle_round = (server_round - 1) % cycle_rounds
        if cycle_round == 0:
            sums = {layer: [dict.fromkeys(own, 0.0) for _ in partitions] for layer, own in keys.items()}
            counts, due = dict.fromkeys(LAYERS, 0), dict.fromkeys(LAYERS, c_max == 1)
        gradients = [gradient(partition, weights, server_round) for partition in partitions]
        for layer, own in keys.items():
            cosines = [
                cosine(sums[layer][i], {key: gradients[i][key] for key in own}) if counts[layer] else 1.0
                for i in range(len(partitions))
            ]
            for i, one in enumerate(gradients):
                sums[layer][i] = {key: sums[layer][i][key] + one[key] for key in own}
            counts[layer] += 1
            if due[layer] or cycle_round == cycle_rounds - 1:
                for key in own:
                    mean = np.average([one[key] for one in sums[layer]], axis=0, weights=shares)
                    weights = {**weights, key: weights[key] - learning_rate * mean / counts[layer]}
                sums[layer], counts[layer] = [dict.fromkeys(own, 0.0) for _ in partitions], 0
            due[layer] = np.average(cosines, weights=shares) < theta or counts[layer] + 1 >= c_max
    return weights
