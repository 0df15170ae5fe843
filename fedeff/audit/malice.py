"""A server that crafts the weights it sends: the clients and all that they do stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.numpy import save_file

from fedeff.app.settings import Settings
from fedeff.app.workload import new_model
from fedeff.audit.capture import public_of
from fedeff.audit.imprinted import imprinted_weights
from fedeff.audit.judging import PublicRows
from fedeff.core.rng import generator

__all__ = ["crafted"]


@contextmanager
def crafted(settings: Settings, public_rows: PublicRows) -> Iterator[Settings]:
    """The settings of a server that sends an imprint in its first layer and asks for one local step.

    Messages say how many steps a client takes, so a server may ask for one. While this lasts the weights
    lie in a private folder. Nothing of the model's code is changed; where clients take code from the
    server, too, any model can carry an imprint (`fedeff.audit.imprinted.imprinted`).

    Raises:
        AuditError: if the network has no place for an imprint.
    """
    weights = {key: values.detach().numpy() for key, values in new_model(settings).state_dict().items()}
    rng = generator(settings.seed, purpose="audit imprint")
    sent = imprinted_weights(public_of(settings), weights, public_rows.inputs, rng)
    with TemporaryDirectory(prefix="fedeff-imprint-") as folder:
        file = Path(folder) / "imprint.safetensors"
        save_file(sent, file)
        yield replace(settings, initial_weights=str(file), local_steps=1)
