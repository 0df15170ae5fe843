"""Records as TensorBoard scalars (the `tensorboard` extra).

TensorBoard's own event writer is used; `torch.utils.tensorboard` wraps the same one.
"""

import math
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType

from fedeff.core.errors import ConfigError
from fedeff.core.records import RoundRecord, read_rounds

__all__ = ["TensorBoardWriter", "write_tensorboard"]

_SCALARS = (
    "accuracy",
    "loss",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_bytes_total",
    "downlink_bytes_total",
    "wall_s",
    "virtual_s",
    "virtual_s_total",
    "cohort",
    "arrived",
    "errors",
    "missing",
    "parameters",
)


class TensorBoardWriter:
    """Writes each round's numbers as it is given, under `folder`; a context manager.

    Raises:
        ConfigError: the `tensorboard` extra is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            event = import_module("tensorboard.compat.proto.event_pb2")
            summary = import_module("tensorboard.compat.proto.summary_pb2")
            writer = import_module("tensorboard.summary.writer.event_file_writer")
        except ImportError as error:
            raise ConfigError(
                'TensorBoard is not installed; run: pip install "fedeff[tensorboard]"'
            ) from error
        self._event = event.Event
        self._summary = summary.Summary
        self._writer = writer.EventFileWriter(str(folder))

    def write(self, record: RoundRecord) -> None:
        """Add one round: the global model, cost, arrivals, and every metric that is finite."""
        named = {name: getattr(record, name) for name in _SCALARS}
        for group in ("train_metrics", "evaluate_metrics", "worst_tenth"):
            named |= {f"{group}/{name}": value for name, value in getattr(record, group).items()}
        values = [
            self._summary.Value(tag=name if "/" in name else f"round/{name}", simple_value=value)
            for name, value in named.items()
            if value is not None and math.isfinite(value)
        ]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=record.server_round, summary=summary))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_tensorboard(run_dir: Path | str, folder: Path | str | None = None) -> Path:
    """Write all rounds of a run folder, into its `tensorboard/` unless told otherwise; returns where."""
    target = Path(run_dir) / "tensorboard" if folder is None else Path(folder)
    with TensorBoardWriter(target) as writer:
        for record in read_rounds(Path(run_dir) / "rounds.jsonl"):
            writer.write(record)
    return target
