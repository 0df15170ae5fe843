"""Penalties that give weights a structure: groups that are zero as wholes, filters of low rank."""

from fedeff.clients.structure.force import Force
from fedeff.clients.structure.group_lasso import GroupLasso
from fedeff.clients.structure.groups import GROUPS, Family, Member, hidden_groups, structured_groups
from fedeff.clients.structure.sparsity import Sparsity

__all__ = [
    "GROUPS",
    "Family",
    "Force",
    "GroupLasso",
    "Member",
    "Sparsity",
    "hidden_groups",
    "structured_groups",
]
