"""What a request asks of a client, read from a message and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message

from fedeff.clients.training import Array, LocalTraining
from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.layers import decode_record
from fedeff.core.lists import NO_PART, NO_ROUND, entries
from fedeff.core.parts import key_of, shape_of
from fedeff.models import Structure

__all__ = ["CycleRequest", "Procedure", "ReplyWith", "Request", "Tag", "parts_due", "read_request"]

Procedure = Literal["train", "accumulate", "coded-gradient", "curvature"]
ReplyWith = Literal["weights", "displacement"]
Tag = tuple[int, int]  # cycle, and round of the cycle
Config = Mapping[str, object]
_PROCEDURES = ("train", "accumulate", "coded-gradient", "curvature")
_REPLY_WITH = ("weights", "displacement")
_OF_A_CYCLE = ("layer-versions", "keep-sent", "corrects")


@dataclass(frozen=True)
class CycleRequest:
    """What a client that keeps its local model is asked beside the training.

    `layer_versions` are those of the server's layers once the message is applied, one per layer;
    None where it does not say. With `keep_sent` the client keeps what it sends, until it is corrected
    or the whole model comes. `correction` holds parts to add, less what was sent in the rounds `corrects`.
    """

    tag: Tag
    layer_versions: tuple[int, ...] | None
    keep_sent: bool
    corrects: tuple[int, ...]
    correction: dict[str, Array]


@dataclass(frozen=True)
class Request:
    """A train or evaluate message, read and checked."""

    message: Message
    partition: int
    partitions: int
    server_round: int
    training: LocalTraining
    arrays: dict[str, Array]  # by part, read-only views of the message's bytes
    layers_due: tuple[str, ...] | None  # parts to send back; None for all arrays
    reply_with: ReplyWith = "weights"
    procedure: Procedure = "train"
    power_iterations: int = 20  # of the procedure "curvature"
    keep_optimizer: bool = False
    cycle: CycleRequest | None = None  # None: the client keeps no model
    structure: Structure = field(default_factory=Structure)  # of the model that the arrays are of
    penalised: bool = True  # whether the client's penalty, if it has one, is part of its loss


def read_request(message: Message, context: Context, training: LocalTraining) -> Request:
    """The request in a message, with `training` as its config overrides it.

    Content is `arrays` (the model, or parts of it for a client that keeps the rest), `config` and
    `correction` (both may be absent). Raises ConfigError naming what is missing or wrong.
    """
    record = message.content.get("config", ConfigRecord())
    # A client that keeps its model may be sent nothing but a correction of it.
    arrays = message.content.get("arrays", ArrayRecord() if "cycle" in record else None)
    if not isinstance(arrays, ArrayRecord) or not isinstance(record, ConfigRecord):
        raise ConfigError(
            f"the message holds {sorted(message.content)}; a client needs 'arrays' (ArrayRecord) "
            "and reads 'config' (ConfigRecord)"
        )
    config: Config = dict(record.items())  # a record takes microseconds for each key that it lacks
    request = Request(
        message,
        _node_number(context, "partition-id", least=0),
        _node_number(context, "num-partitions", least=1),
        _whole(config, "server-round", 0, least=0),
        training.overridden(config),
        decode_record(arrays),
        _layers_due(config),
        cast(ReplyWith, _choice(config, "reply-with", _REPLY_WITH)),
        cast(Procedure, _choice(config, "procedure", _PROCEDURES)),
        _whole(config, "power-iterations", 20, least=1),
        _flag(config, "keep-optimizer"),
        _cycle(config, message),
        _structure(config),
        _flag(config, "penalty", default=True),
    )
    _check_procedure(request)
    return request


def parts_due(request: Request, weights: Mapping[str, Array]) -> tuple[str, ...]:
    """The parts of the weights to send back: as asked for, or every array.

    A client that keeps no model answers in the model's order. Raises ConfigError for a part that
    the weights have not.
    """
    if request.layers_due is None:
        return tuple(weights)
    for part in request.layers_due:
        if key_of(part) not in weights:
            raise unknown_name("array in layers-due", key_of(part), weights)
        shape_of(part, weights[key_of(part)].shape)
    if request.cycle is not None:
        return request.layers_due
    places = {key: place for place, key in enumerate(weights)}
    return tuple(sorted(request.layers_due, key=lambda part: places[key_of(part)]))


def _check_procedure(request: Request) -> None:
    """Refuse what a procedure cannot do."""
    procedure, kept = request.procedure, request.cycle is not None
    if procedure == "accumulate" and not kept:
        raise ConfigError(
            "procedure 'accumulate' keeps gradients between messages; send cycle and cycle-round with it"
        )
    if procedure in ("coded-gradient", "curvature") and kept:
        raise ConfigError(
            f"procedure {procedure!r} keeps nothing between messages; send the whole model without a cycle"
        )
    if procedure != "train" and request.reply_with != "weights":
        raise ConfigError(
            f"reply-with is {request.reply_with!r} with procedure {procedure!r}, which moves no weights; "
            "leave reply-with out or use procedure 'train'"
        )


def _structure(config: Config) -> Structure:
    """The structure of the model's version; version 0 is the model as the client builds it."""
    version, text = _whole(config, "model-version", 0, least=0), config.get("structure", "{}")
    if not isinstance(text, str):
        raise ConfigError(f"structure is {text!r}; it must be the JSON that Structure.json holds")
    structure = Structure.from_json(text)
    if structure.version != version:
        raise ConfigError(
            f"the message is of model version {version}, its structure of version {structure.version}; "
            "send both of the same version with every message"
        )
    return structure


def _cycle(config: Config, message: Message) -> CycleRequest | None:
    present = [key for key in ("cycle", "cycle-round") if key in config]
    if not present:
        alone = [key for key in _OF_A_CYCLE if key in config]
        alone += ["correction"] if "correction" in message.content else []
        if alone:
            raise ConfigError(
                f"the message has {alone} but neither cycle nor cycle-round; these tell a client "
                "which model of its own they are about, so send both"
            )
        return None
    if len(present) == 1:
        raise ConfigError(f"the message has {present[0]} alone; send cycle and cycle-round, or neither")
    versions = _numbers(config, "layer-versions") if "layer-versions" in config else None
    return CycleRequest(
        (_whole(config, "cycle", 0, least=0), _whole(config, "cycle-round", 0, least=0)),
        versions,
        _flag(config, "keep-sent"),
        tuple(dict.fromkeys(_numbers(config, "corrects", nothing=NO_ROUND))),
        _correction(config, message),
    )


def _correction(config: Config, message: Message) -> dict[str, Array]:
    record = message.content.get("correction", ArrayRecord())
    if not isinstance(record, ArrayRecord):
        raise ConfigError(f"correction is {type(record).__name__}; it must be an ArrayRecord of parts")
    if record and "corrects" not in config:
        raise ConfigError(
            "the message has a correction but not the rounds that it corrects; send corrects, "
            f"[{NO_ROUND}] for none"
        )
    return decode_record(record)


def _node_number(context: Context, key: str, least: int) -> int:
    value: Any = context.node_config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"node config {key!r} is {value!r}; it must be a whole number of at least {least} "
            '(a SuperNode takes it from --node-config "partition-id=0 num-partitions=2")'
        )
    return value


def _whole(config: Config, key: str, default: int, *, least: int) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} is {value!r}; it must be a whole number of at least {least}")
    return value


def _flag(config: Config, key: str, *, default: bool = False) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}; it must be true or false")
    return value


def _choice(config: Config, key: str, known: Sequence[str]) -> str:
    """The key's value, the first that is known where it is absent."""
    value = config.get(key, known[0])
    if not isinstance(value, str) or value not in known:
        raise unknown_name(f"value of {key}", str(value), known)
    return value


def _numbers(config: Config, key: str, nothing: int | None = None) -> tuple[int, ...]:
    given = config.get(key, [])
    values: tuple[Any, ...] = tuple(given) if isinstance(given, list) else (None,)
    values = values if nothing is None else entries(values, nothing)
    if not all(type(value) is int and value >= 0 for value in values):
        raise ConfigError(f"{key} is {given!r}; it must be a list of whole numbers of at least 0")
    return values


def _layers_due(config: Config) -> tuple[str, ...] | None:
    due = config.get("layers-due")
    if due is None:
        return None
    if not isinstance(due, list) or not all(isinstance(part, str) for part in due):
        raise ConfigError(f"layers-due is {due!r}; it must be a list of array keys, or parts of arrays")
    return tuple(dict.fromkeys(entries(cast(list[str], due), NO_PART)))
