"""The client, written for Flower."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this client's digits and send it back."""
    net = _model(message)
    x, y = _data(context)
    config = context.run_config
    epochs, batch_size = int(config["local-epochs"]), int(config["batch-size"])
    loss = task.train(net, x, y, epochs, batch_size, float(config["learning-rate"]))
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(y)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the global model on this client's digits."""
    x, y = _data(context)
    metrics = MetricRecord({"accuracy": task.accuracy(_model(message), x, y), "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _model(message: Message) -> task.Net:
    net = task.Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net


def _data(context: Context) -> tuple[task.Tensor, task.Tensor]:
    node = context.node_config
    return task.client_data(int(node["partition-id"]), int(node["num-partitions"]))
