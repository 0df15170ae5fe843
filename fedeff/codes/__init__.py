"""Coded computation: codes, their training and the pool that runs them.

Here are the codes without training. `fedeff.codes.learned` fits codes to a network (torch),
`fedeff.codes.pool` runs them over Ray actors, `fedeff.codes.planning` chooses among them.
"""

from fedeff.codes.berrut import Berrut
from fedeff.codes.code import Code, Decoded
from fedeff.codes.gradient_coding import GradientCode, cyclic, fractional_repetition
from fedeff.codes.lagrange import Lagrange
from fedeff.codes.mds import MDS
from fedeff.codes.replication import Replication
from fedeff.codes.spec import code_names, code_of
from fedeff.codes.spline import Spline

__all__ = [
    "MDS",
    "Berrut",
    "Code",
    "Decoded",
    "GradientCode",
    "Lagrange",
    "Replication",
    "Spline",
    "code_names",
    "code_of",
    "cyclic",
    "fractional_repetition",
]
