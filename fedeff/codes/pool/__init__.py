"""Pools of Ray actors whose slow and dead members are answered for by a code."""

from fedeff.codes.pool.actor_pool import CodedActorPool
from fedeff.codes.pool.results import Coded, PoolStatistics
from fedeff.codes.pool.wait import coded_wait

__all__ = ["Coded", "CodedActorPool", "PoolStatistics", "coded_wait"]
