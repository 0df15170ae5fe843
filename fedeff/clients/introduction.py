"""What a client answers where the server asks which partition it holds."""

from typing import cast

from flwr.app import Context, Message, MetricRecord, RecordDict

from fedeff.core.errors import ConfigError
from fedeff.grids.partitions import INTRODUCTION, PARTITION, PARTITIONS

__all__ = ["asks_for_introduction", "introduction"]


def asks_for_introduction(message: Message) -> bool:
    """Whether the message asks who the client is, and nothing else."""
    return message.metadata.message_type == INTRODUCTION


def introduction(message: Message, context: Context) -> Message:
    """The reply that says which partition the client holds, and of how many.

    Raises:
        ConfigError: if its node's config does not say.
    """
    numbers = {key: context.node_config.get(key) for key in (PARTITION, PARTITIONS)}
    if not all(type(number) is int for number in numbers.values()):
        raise ConfigError(f"the node's config has {numbers}; start it with partition-id=N num-partitions=M")
    record = MetricRecord({key: cast(int, number) for key, number in numbers.items()})
    return Message(RecordDict({"introduction": record}), reply_to=message)
