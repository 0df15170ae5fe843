"""A client's own samples, and a bounded store of them in the form that training reads."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedeff.core.errors import ConfigError, DataError

__all__ = ["ClientData", "SampleStore", "Samples", "prepared"]

Values = np.ndarray[Any, Any] | torch.Tensor
DataSource = Callable[[int, int], "ClientData"]


@dataclass(frozen=True)
class ClientData:
    """One client's training and test samples, numpy arrays or CPU tensors.

    `x` is (n, *input_shape): uint8 images (0 to 255, scaled to [0, 1] before training), float
    inputs taken as they are, or int64 tokens. `y` is (n,) class numbers, or (n, length) for
    next-character prediction. Test samples may be left out where nothing is evaluated.
    """

    train_x: Values
    train_y: Values
    test_x: Values | None = None
    test_y: Values | None = None

    def __post_init__(self) -> None:
        if (self.test_x is None) != (self.test_y is None):
            raise DataError("client data has test_x or test_y alone; give both or neither")
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x is not None and y is not None and len(x) != len(y):
                raise DataError(
                    f"client data has {len(x)} {part} inputs but {len(y)} labels; they must be as many"
                )


@dataclass(frozen=True)
class Samples:
    """Inputs and int64 labels as tensors on the training device."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return self.x.nbytes + self.y.nbytes


def prepared(x: Values, y: Values, device: str) -> Samples:
    """The samples in the dtypes that training reads: float32 or int64 inputs, int64 labels."""
    return Samples(_inputs(np.asarray(x)).to(device), _tensor(np.asarray(y), np.int64).to(device))


def _inputs(x: np.ndarray[Any, Any]) -> torch.Tensor:
    if x.dtype == np.uint8:
        return torch.from_numpy(np.divide(x, np.float32(255), dtype=np.float32))
    kinds = {"f": np.float32, "i": np.int64, "u": np.int64}
    if x.dtype.kind not in kinds:
        raise DataError(f"client inputs have dtype {x.dtype}; give uint8 images, floats or integer tokens")
    return _tensor(x, kinds[x.dtype.kind])


def _tensor(values: np.ndarray[Any, Any], dtype: type) -> torch.Tensor:
    # Copied only where needed; torch warns of read-only memory, such as a file's.
    return torch.from_numpy(np.require(values, dtype, ["C", "W"]))


class SampleStore:
    """Prepared samples by client, the least recently used dropped above `capacity_bytes`.

    `source(partition_id, num_partitions)` must be a pure function: it is asked again for a client
    that was dropped.
    """

    def __init__(self, source: DataSource, capacity_bytes: int = 128 << 20) -> None:
        self._source, self._capacity_bytes = source, capacity_bytes
        self._kept: OrderedDict[tuple[int, int, str, str], Samples] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: the source, not the samples."""
        return {**self.__dict__, "_kept": OrderedDict(), "_bytes": 0}

    def train(self, partition: int, partitions: int, device: str) -> Samples:
        """The client's training samples; DataError if there are none."""
        return self._samples(partition, partitions, device, "train")

    def test(self, partition: int, partitions: int, device: str) -> Samples:
        """The client's test samples, which may be none; DataError if the source has none for anybody."""
        return self._samples(partition, partitions, device, "test")

    def _samples(self, partition: int, partitions: int, device: str, part: str) -> Samples:
        key = (partition, partitions, device, part)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        samples = self._read(*key)
        self._kept[key] = samples
        self._bytes += samples.bytes
        while self._bytes > self._capacity_bytes and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        return samples

    def _read(self, partition: int, partitions: int, device: str, part: str) -> Samples:
        data = self._source(partition, partitions)
        if not isinstance(data, ClientData):
            raise ConfigError(
                f"data({partition}, {partitions}) gave {type(data).__name__}; it must give ClientData"
            )
        x, y = (data.train_x, data.train_y) if part == "train" else (data.test_x, data.test_y)
        # A natural client may have no test samples of its own: it then has nothing to say, but no fault.
        if x is None or y is None or (part == "train" and not len(y)):
            raise DataError(
                f"client {partition} of {partitions} has no {part} samples; "
                "use fewer clients or a partition without empty ones"
            )
        return prepared(x, y, device)
