"""The client, as any Flower user would write it."""

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from yardstick import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    model = task.workload.MODELS[task.setting(context, "model")]()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y, _, _ = task.data()
    rows = task.shards(task.setting(context, "clients"))[context.node_config["partition-id"]]
    images, labels = x[rows], y[rows]
    optimizer = torch.optim.SGD(model.parameters(), lr=task.workload.LEARNING_RATE)
    for i in range(0, len(labels), task.workload.BATCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(
            model(images[i : i + task.workload.BATCH]), labels[i : i + task.workload.BATCH]
        )
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(labels)})
    return Message(
        content=RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )
