"""How messages of a session travel in Flower's."""

from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedeff.core.errors import SecureAggregationError
from fedeff.core.flower import array_record
from fedeff.secure.envelope import Step

__all__ = ["RECORD", "answer_of", "carrying", "reply_with", "request_of"]

RECORD = "fedeff.secure"  # of a content, and of what a client keeps
_BODY = "fedeff.secure.message"  # a record of one array of this type, so that payload is counted


def carrying(content: RecordDict, step: Step, body: bytes) -> RecordDict:
    """The content with a request of a session.

    Beside a model the request is plain configuration: an outer codec of models then leaves it alone.
    """
    records: dict[str, Any] = dict(content.items())
    if step == Step.INPUT:
        records[RECORD] = ConfigRecord({"step": int(step), "message": body})
    else:
        records |= {RECORD: ConfigRecord({"step": int(step)}), _BODY: _record_of(body)}
    return RecordDict(records)


def request_of(content: RecordDict) -> tuple[Step, bytes, RecordDict] | None:
    """The step, the request, and the content without it; None where there is none.

    Raises:
        SecureAggregationError: for a request that cannot be read.
    """
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord):
        return None
    body = record.get("message", _body_of(content))
    step = record.get("step")
    if not isinstance(body, bytes) or not isinstance(step, int) or not Step.KEYS <= step <= Step.REVEAL:
        raise SecureAggregationError(f"a request of step {step!r} without its message; expected steps 1 to 4")
    rest = {name: one for name, one in content.items() if name not in (RECORD, _BODY)}
    return Step(step), body, RecordDict(cast(Any, rest))


def reply_with(
    message: Message, body: bytes | None, partition: object, *, need_full: bool = False
) -> Message:
    """The reply: the message of a session, and no metric but who answers."""
    told: dict[str, int | float] = {"partition-id": partition} if isinstance(partition, int) else {}
    if need_full:
        told |= {"need-full": 1, "num-examples": 0}
    records: dict[str, Any] = {"metrics": MetricRecord({**told})}
    if body is not None:
        records[_BODY] = _record_of(body)
    return Message(RecordDict(records), reply_to=message)


def answer_of(reply: Message) -> bytes:
    """The message of a session in a reply.

    Raises:
        SecureAggregationError: where the client answered without one.
    """
    extra = [name for name, one in reply.content.items() if isinstance(one, ArrayRecord) and name != _BODY]
    body = _body_of(reply.content)
    if body is None or extra:
        raise SecureAggregationError(
            "the client answers without the message of secure aggregation; give its ClientApp "
            "mods=[SecureMod()] from fedeff.secure"
        )
    return body


def _record_of(body: bytes) -> ArrayRecord:
    return array_record({_BODY: Array(dtype="uint8", shape=(len(body),), stype=_BODY, data=body)})


def _body_of(content: RecordDict) -> bytes | None:
    record = content.get(_BODY)
    array = record.get(_BODY) if isinstance(record, ArrayRecord) else None
    return array.data if array is not None and array.stype == _BODY else None
