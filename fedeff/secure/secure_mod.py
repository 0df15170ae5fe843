"""A Flower mod under which a client's update leaves it masked, and never else."""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedeff.core.errors import SecureAggregationError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode_record
from fedeff.core.parts import key_of, take
from fedeff.secure.client_session import ClientSession, Kept
from fedeff.secure.envelope import Step
from fedeff.secure.messages import Begin, read, written
from fedeff.secure.plan import Plan
from fedeff.secure.protocols import client_side
from fedeff.secure.terms import PROTOCOLS
from fedeff.secure.wire import RECORD, reply_with, request_of
from fedeff.strategies.weighted_sum import NDArray, asks_for_full, read_update

__all__ = ["SecureMod", "base_of"]


class SecureMod:
    """Answers a `SecureGrid`; whatever else asks to train or to evaluate is refused.

    Between the messages of a round a client keeps its secrets in `Context.state`; they are gone when the
    round's last is answered, or the next round begins. Give it first (after `codec_mod` where models come
    coded): mods inside of it, which clip or add noise, see the plain update. `protocols` are those that
    this client takes part in; `least_clients` is the smallest session.

    >>> app = ClientApp(mods=[SecureMod()])  # doctest: +SKIP
    """

    def __init__(self, *, protocols: tuple[str, ...] = PROTOCOLS, least_clients: int = 2) -> None:
        for protocol in protocols:
            client_side(protocol)
        self.protocols, self.least_clients = protocols, least_clients

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """The reply to a message of a session.

        Raises:
            SecureAggregationError: for any other message, and for one that this client must not answer.
        """
        request = request_of(message.content) if message.has_content() else None
        if request is None:
            raise SecureAggregationError(
                f"a {message.metadata.message_type} message outside of secure aggregation, to which this "
                "client would answer in the clear; run the server with the same secure-aggregation"
            )
        step, body, content = request
        if step == Step.KEYS:
            return self._begin(message, context, body)
        session = _kept_session(context.state)
        if step == Step.INPUT:
            return _train(session, with_content(message, content), context, call_next, body)
        answer = session.share(body) if step == Step.SHARES else session.reveal(body)
        _keep(context.state, session if step == Step.SHARES else None)
        return _reply(message, context, answer)

    def _begin(self, message: Message, context: Context, invitation: bytes) -> Message:
        terms = read(Begin, invitation).terms
        if terms.protocol not in self.protocols or terms.clients < self.least_clients:
            raise SecureAggregationError(
                f"invited to {terms.protocol} among {terms.clients} clients, but this client takes part in "
                f"{' or '.join(self.protocols)} among at least {self.least_clients}; set both sides alike"
            )
        session = client_side(terms.protocol)(ClientSession.fresh(invitation))
        _keep(context.state, session)
        return _reply(message, context, session.keys())


def base_of(content: RecordDict, plan: Plan) -> Mapping[str, NDArray]:
    """What a message holds of the arrays that are told as differences.

    Raises:
        SecureAggregationError: where it does not hold one of them.
    """
    wanted = [key for key, _, dtype in plan.arrays if "f" in dtype and plan.differs(key)]
    record: Any = content.get("arrays")
    sent = {} if record is None or not wanted else decode_record(record)
    missing = [key for key in wanted if key_of(key) not in sent]
    if missing:
        raise SecureAggregationError(
            f"array {missing[0]!r} is to be told as a difference, but the message does not hold it; under "
            "secure aggregation strategies that send some layers need codec=raw, or codec-difference=false"
        )
    return take(sent, wanted)


def _train(
    session: ClientSession, message: Message, context: Context, call_next: ClientAppCallable, request: bytes
) -> Message:
    plan = read(Plan, session.asked(request))
    begin = session.begin
    if plan.clients != begin.terms.clients or plan.size() != begin.size:
        raise SecureAggregationError(
            f"the plan is of {plan.clients} clients and {plan.size()} elements, the invitation was of "
            f"{begin.terms.clients} and {begin.size}; refused"
        )
    base = base_of(message.content, plan)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    if asks_for_full(reply):
        return reply_with(message, None, context.node_config.get("partition-id"), need_full=True)
    update = read_update(reply, plan.layout, plan.weighted_by)
    answer = session.masked(plan.vector(update, base))
    _keep(context.state, session)
    return _reply(message, context, answer)


def _reply(message: Message, context: Context, answer: bytes) -> Message:
    return reply_with(message, answer, context.node_config.get("partition-id"))


def _keep(state: RecordDict, session: ClientSession | None) -> None:
    if session is not None:
        state[RECORD] = ConfigRecord({"kept": written(session.kept)})
    elif RECORD in state:
        del state[RECORD]


def _kept_session(state: RecordDict) -> ClientSession:
    record = state.get(RECORD)
    kept = record.get("kept") if isinstance(record, ConfigRecord) else None
    if not isinstance(kept, bytes):
        raise SecureAggregationError(
            "this client has no session under way: its state was lost, or the round is over; it joins "
            "the next"
        )
    secret = read(Kept, kept)
    return client_side(read(Begin, secret.invitation).terms.protocol)(secret)
