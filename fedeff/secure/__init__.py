"""Secure aggregation and differential privacy: what the server learns of a client, and what not."""

from fedeff.secure.envelope import Step
from fedeff.secure.light_sec_agg import LightSecAggClient, LightSecAggServer
from fedeff.secure.quantiser import Quantiser, most_fraction_bits
from fedeff.secure.sec_agg import SecAggClient, SecAggServer
from fedeff.secure.secure_grid import SecureGrid, SecureOptions
from fedeff.secure.secure_mod import SecureMod
from fedeff.secure.terms import PROTOCOLS, Terms, terms_for

__all__ = [
    "PROTOCOLS",
    "LightSecAggClient",
    "LightSecAggServer",
    "Quantiser",
    "SecAggClient",
    "SecAggServer",
    "SecureGrid",
    "SecureMod",
    "SecureOptions",
    "Step",
    "Terms",
    "most_fraction_bits",
    "terms_for",
]
