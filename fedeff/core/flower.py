"""The only place that touches flwr's private names, so that moving the pin is one file's work.

What is private in flwr 1.41: a message's id is set by whoever transports it; the task identity is
set by the process that `flwr run` starts; records keep their items in `_data`, a ClientApp its mods in
`_mods`; loading an app folder lives in `flwr.supercore` and `flwr.common`. `tests/core/test_flower.py` holds
each of these facts against the installed flwr.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.app.metadata import Metadata
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.config import (
    get_fused_config_from_dir,
    get_project_config,
    parse_config_args,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import ServerApp
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedeff.core.errors import AppError, ConfigError, unknown_name

__all__ = [
    "CLIENT_CRASHED",
    "CLIENT_RAISED",
    "NODE_UNAVAILABLE",
    "REPLY_UNAVAILABLE",
    "Blobs",
    "PackedContent",
    "Run",
    "UserConfig",
    "app_components",
    "array_record",
    "error_reply",
    "large_bytes",
    "load_component",
    "message_from",
    "metadata_of",
    "mods_of",
    "new_run",
    "pack_content",
    "reply_content",
    "run_config_of",
    "set_message_id",
    "set_task_identity",
    "set_up_logging",
    "unpack_content",
    "with_content",
    "with_error",
]

CLIENT_RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLIENT_CRASHED: int = ErrorCode.CLIENT_APP_CRASHED
NODE_UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE
REPLY_UNAVAILABLE: int = ErrorCode.REPLY_MESSAGE_UNAVAILABLE

# A record as plain values: its key, its kind, and its items. An array's data is in-line bytes, or
# the position of its bytes in a list that travels beside it.
PackedArray = tuple[str, str, tuple[int, ...], str, "bytes | int"]
PackedRecord = tuple[str, str, "tuple[PackedArray, ...] | dict[str, Any]"]
PackedContent = tuple[PackedRecord, ...]

_EMPTY: dict[str, dict[str, Any]] = {
    kind.__name__: dict(kind().__dict__) for kind in (ArrayRecord, MetricRecord, ConfigRecord, RecordDict)
}
_KINDS: dict[str, type[ArrayRecord] | type[MetricRecord] | type[ConfigRecord]] = {
    "ArrayRecord": ArrayRecord,
    "MetricRecord": MetricRecord,
    "ConfigRecord": ConfigRecord,
}
# Smaller arrays travel inside the pickle: a buffer of its own would cost more than the copy.
_INLINE_BYTES = 4096


def set_task_identity(run_id: int) -> None:
    """Give this process the identity that `Message` asks for, as `flwr run` does for its own."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
        run_id,
        SUPERLINK_NODE_ID,
        1,
    )


def new_run(run_id: int, override_config: UserConfig | None = None) -> Run:
    """A `Run` for an engine without a SuperLink."""
    run = Run.create_empty(run_id)
    run.primary_task_id = 1
    run.federation_id = NOOP_FEDERATION_ID
    run.override_config = dict(override_config or {})
    return run


def set_up_logging(verbose: bool) -> None:
    """Show flwr's DEBUG lines, or only INFO and above as flwr's own engine does."""
    logging.getLogger("flwr").setLevel(logging.DEBUG if verbose else logging.INFO)


def set_message_id(message: Message, message_id: str) -> None:
    """Stamp a message with the id under which its reply will be known."""
    message.metadata.__dict__["_message_id"] = message_id


def mods_of(app: ClientApp) -> tuple[Any, ...]:
    """The mods around every message of an app; those of a single function cannot be told."""
    return tuple(app._mods)


def metadata_of(message: Message) -> dict[str, Any]:
    """A message's metadata as a plain dictionary, for `message_from`."""
    return dict(message.metadata.__dict__)


def message_from(metadata: dict[str, Any], content: RecordDict | None, error: Error | None = None) -> Message:
    """The message whose metadata `metadata_of` gave, without validating it a second time."""
    copied = Metadata.__new__(Metadata)
    copied.__dict__.update(metadata)
    message = Message.__new__(Message)
    message.__dict__.update(_metadata=copied, _content=content, _error=error)
    return message


def with_content(message: Message, content: RecordDict) -> Message:
    """The message with another content, and the same metadata object.

    So an id that a Grid gives the one when it sends it is the other's too.
    """
    changed = Message.__new__(Message)
    changed.__dict__.update(_metadata=message.metadata, _content=content, _error=None)
    return changed


def with_error(reply: Message, code: int, reason: str) -> Message:
    """The reply with an error in place of its content, and the same metadata object."""
    changed = Message.__new__(Message)
    changed.__dict__.update(_metadata=reply.metadata, _content=None, _error=Error(code, reason))
    return changed


def error_reply(request: Message, code: int, reason: str) -> Message:
    """The reply Flower's own runtimes send where a client gave none."""
    return Message(Error(code=code, reason=reason), reply_to=request)


class Blobs:
    """Array bytes that travel beside packed contents, each once, known by position.

    Sharing is told by identity, as pickle tells it: the messages of one broadcast hold the same
    `bytes` object, which cannot change. Equal bytes in two objects simply travel twice. With
    `shared`, positions continue where that table ends and its bytes are not taken again.
    """

    def __init__(self, shared: "Blobs | None" = None) -> None:
        self.items: list[bytes] = []
        self._positions: dict[int, int] = {}
        self._shared = shared
        self._offset = len(shared.items) if shared else 0

    def place(self, data: bytes) -> bytes | int:
        """The position of `data`, or `data` itself where it is too small to travel apart."""
        if len(data) < _INLINE_BYTES:
            return data
        if self._shared is not None and (known := self._shared._positions.get(id(data))) is not None:
            return known
        position = self._positions.get(id(data))
        if position is None:
            position = self._positions[id(data)] = self._offset + len(self.items)
            self.items.append(data)
        return position


def large_bytes(content: RecordDict) -> list[bytes]:
    """The array bytes of a content that would travel apart."""
    return [
        array.data
        for record in content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
        if len(array.data) >= _INLINE_BYTES
    ]


def pack_content(content: RecordDict, blobs: Blobs) -> PackedContent:
    """A record dictionary as plain values; the bytes of its large arrays go into `blobs`."""
    return tuple(_pack_record(key, record, blobs) for key, record in content.items())


def _pack_record(key: str, record: Any, blobs: Blobs) -> PackedRecord:
    if not isinstance(record, ArrayRecord):
        kind = "MetricRecord" if isinstance(record, MetricRecord) else "ConfigRecord"
        return (
            key,
            kind,
            {k: list(v) if isinstance(v, list) else v for k, v in record.items()},
        )
    arrays = tuple(
        (name, array.dtype, tuple(array.shape), array.stype, blobs.place(array.data))
        for name, array in record.items()
    )
    return key, "ArrayRecord", arrays


def unpack_content(packed: PackedContent, blobs: Sequence[bytes]) -> RecordDict:
    """A fresh record dictionary: every call gives its own, which shares nothing that can change."""
    data: dict[str, Any] = {}
    for key, kind, items in packed:
        if isinstance(items, dict):
            values: dict[str, Any] = {k: list(v) if isinstance(v, list) else v for k, v in items.items()}
        else:
            values = {
                name: _array(dtype, shape, stype, data, blobs) for name, dtype, shape, stype, data in items
            }
        data[key] = _record(_KINDS[kind], values)
    return _record(RecordDict, data)  # type: ignore[no-any-return]


def _array(
    dtype: str,
    shape: tuple[int, ...],
    stype: str,
    data: bytes | int,
    blobs: Sequence[bytes],
) -> Array:
    array = Array.__new__(Array)
    array.__dict__.update(
        dtype=dtype,
        shape=shape,
        stype=stype,
        data=blobs[data] if isinstance(data, int) else data,
    )
    return array


def array_record(arrays: dict[str, Array]) -> ArrayRecord:
    """A record of these very arrays; Flower's constructor would check and copy each."""
    return _record(ArrayRecord, arrays)  # type: ignore[no-any-return]


def reply_content(arrays: ArrayRecord | None, metrics: dict[str, int | float]) -> RecordDict:
    """What a client answers: `{"arrays": ..., "metrics": ...}`, without Flower's check of every value."""
    data: dict[str, Any] = {} if arrays is None else {"arrays": arrays}
    data["metrics"] = _record(MetricRecord, metrics)
    return _record(RecordDict, data)  # type: ignore[no-any-return]


def _record(kind: Any, data: dict[str, Any]) -> Any:
    record = kind.__new__(kind)
    record.__dict__.update(_EMPTY[kind.__name__])
    record.__dict__["_data"] = data
    return record


def app_components(folder: Path) -> tuple[str, str]:
    """The `serverapp` and `clientapp` references of a Flower app folder, as `module:attribute`."""
    try:
        components = get_project_config(folder)["tool"]["flwr"]["app"]["components"]
        return components["serverapp"], components["clientapp"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise AppError(
            f"{folder} is not a Flower app: {reason}; "
            "give a folder whose pyproject.toml has [tool.flwr.app.components] serverapp and clientapp"
        ) from error


def run_config_of(folder: Path, overrides: list[str]) -> UserConfig:
    """An app folder's run config, with `key=value` overrides (or one `.toml` file) applied."""
    try:
        given = parse_config_args(overrides)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read the run config {' '.join(overrides)!r}: {reason}") from error
    known = get_fused_config_from_dir(folder, {})
    for key in given:
        if key not in known:
            raise unknown_name(f"run config key of {folder}", key, known)
    return get_fused_config_from_dir(folder, given)


def load_component(reference: str, folder: Path, kind: type[ServerApp] | type[ClientApp]) -> Any:
    """The `ServerApp` or `ClientApp` that a `module:attribute` reference names."""
    try:
        component = load_app(reference, AppError, folder)
    except ImportError as error:
        raise AppError(f"cannot import {reference!r} from {folder}: {error}") from error
    if not isinstance(component, kind):
        raise AppError(
            f"{reference!r} in {folder} is a {type(component).__name__}, expected a {kind.__name__}"
        )
    return component
