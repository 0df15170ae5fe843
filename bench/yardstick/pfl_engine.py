"""The yardstick on apple/pfl-research (`pip install pfl==0.6.0`).

python pfl_engine.py MODEL CLIENTS COHORT ROUNDS [THREADS]

Under `torchrun --nproc_per_node W` pfl splits each cohort over W processes.
"""

import sys
import time
from typing import ClassVar

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from workload import BATCH, LEARNING_RATE, MODELS, load, partition, result

name, clients, cohort, rounds, threads = sys.argv[1], *map(int, [*sys.argv[2:], "1"][:4])
torch.set_num_threads(threads)
images, labels, test_images, test_labels = load()
shards = torch.from_numpy(partition(labels.numpy(), clients))


class Net(MODELS[name]):
    def loss(self, x, y, eval=False):
        return F.cross_entropy(self(x), y)

    def metrics(self, x, y, eval=True):
        return {"loss": Weighted(F.cross_entropy(self(x), y, reduction="sum").item(), len(y))}


class Clock(TrainingProcessCallback):
    ticks: ClassVar = [time.perf_counter()]

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.ticks.append(time.perf_counter())
        return False, Metrics()


torch.manual_seed(0)
net = Net()
model = PyTorchModel(
    net, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0)
)
dataset = FederatedDataset(
    lambda user: Dataset([images[shards[user]], labels[shards[user]]]),
    get_user_sampler("random", list(range(clients))),
)
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=cohort, val_cohort_size=0
    ),
    backend=SimulatedBackend(training_data=dataset, val_data=dataset),
    model=model,
    model_train_params=NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
    callbacks=[Clock()],
)
with torch.no_grad():
    accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
seconds = [after - before for before, after in zip(Clock.ticks[1:], Clock.ticks[2:], strict=False)]
print(result("pfl", name, clients, cohort, seconds, accuracy=accuracy))
