"""Parameters that stay with each client: what its model trains beside the arrays that travel."""

from flwr.app import ArrayRecord, RecordDict
from torch import nn

from fedeff.clients.training import Array
from fedeff.clients.weights import copy_into
from fedeff.core.layers import decode_record, encode_record

__all__ = ["PersonalParameters"]

_PERSONAL = "personal-parameters"  # of a client's state


class PersonalParameters:
    """The parameters of a module that its `state_dict` lacks, such as the second factors of pFedPara.

    A module of a process trains one client after the other: each time they are put in first, and kept
    afterwards. A client without any begins with those that the module was made with.
    """

    def __init__(self, module: nn.Module) -> None:
        travelling = module.state_dict().keys()
        self._own = {key: p for key, p in module.named_parameters() if key not in travelling}
        self._first = {key: self._values(p) for key, p in self._own.items()}

    def __len__(self) -> int:
        return len(self._own)

    def put_in(self, state: RecordDict) -> None:
        """Make the module's parameters those that a client's state holds."""
        if not self._own:
            return
        record = state.get(_PERSONAL)
        kept = decode_record(record) if isinstance(record, ArrayRecord) else {}
        shapes = {key: values.shape for key, values in kept.items()}
        if shapes != {key: values.shape for key, values in self._first.items()}:  # of another model
            kept = self._first
        for key, parameter in self._own.items():
            copy_into(parameter.detach(), kept[key])

    def keep(self, state: RecordDict) -> None:
        """Make the module's parameters what a client's state holds."""
        if self._own:
            state[_PERSONAL] = encode_record({key: self._values(p) for key, p in self._own.items()})

    @staticmethod
    def _values(parameter: nn.Parameter) -> Array:
        return parameter.detach().cpu().numpy().copy()
