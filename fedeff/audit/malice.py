"""A server that crafts the weights it sends: the clients and all that they do stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from fedeff.app.settings import Settings
from fedeff.app.workload import dataset_of, new_model
from fedeff.audit.capturing.capture import public_of
from fedeff.audit.imprinted import imprinted_weights
from fedeff.core.rng import generator

__all__ = ["crafted"]

_ROWS = 2000  # enough for quantiles of some hundred bins


@contextmanager
def crafted(settings: Settings) -> Iterator[Settings]:
    """The settings of a server that sends an imprint in its first layer and asks for one local step.

    Messages say how many steps a client takes, so a server may ask for one. While this lasts the weights
    lie in a private folder. Quantiles are those of test rows. Nothing of the model's code is changed; where
    clients take code from the server, too, any model can carry an imprint
    (`fedeff.audit.imprinted.imprinted`).

    Raises:
        AuditError: if the network has no place for an imprint.
    """
    weights = {key: values.detach().numpy() for key, values in new_model(settings).state_dict().items()}
    rng = generator(settings.seed, purpose="audit imprint")
    test = dataset_of(settings).test
    rows, _ = test.batch(np.sort(rng.permutation(len(test))[:_ROWS]))
    sent = imprinted_weights(public_of(settings), weights, rows, rng)
    with TemporaryDirectory(prefix="fedeff-imprint-") as folder:
        file = Path(folder) / "imprint.safetensors"
        save_file(sent, file)
        yield replace(settings, initial_weights=str(file), local_steps=1)
