"""What the settings promise: the epsilon that holds, claims as measured, a verdict that heeds them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flwr.clientapp import ClientApp

from fedeff.app.settings import Settings
from fedeff.audit.defences.claims import Wiring
from fedeff.audit.defences.epsilon import check_app, guarantees_of
from fedeff.audit.judging.verdict import Verdict
from fedeff.audit.result import Claim, Guarantee
from fedeff.core.errors import ConfigError, PrivacyError

__all__ = ["guarantee_of", "guarantee_of_app", "heeding", "measured_claims"]


def heeding(verdict: Verdict, wirings: Sequence[Wiring]) -> Verdict:
    """The verdict, but no PASS of a configuration that does not do what it says."""
    broken = tuple(one.sentence for one in wirings if not one.holds)
    if not broken:
        return verdict
    verdict = replace(verdict, reasons=(*verdict.reasons, *broken))
    if verdict.outcome != "PASS":
        return verdict
    sentence = f"INCONCLUSIVE: no leak was found, but {broken[0]}."
    return replace(verdict, outcome="INCONCLUSIVE", sentence=sentence)


def measured_claims(wirings: Sequence[Wiring]) -> Iterator[Claim]:
    """Each claim with what was measured of it."""
    return (Claim(one.claim, one.holds, one.sentence, "measured in what clients send") for one in wirings)


def guarantee_of(settings: Settings) -> Guarantee:
    """The least epsilon that holds against the server, recomputed; what else is promised is a note."""
    try:
        held = guarantees_of(settings)
    except PrivacyError as error:
        return Guarantee(note=str(error))
    note = "; ".join(map(str, held))
    against_server = [one for one in held if one.against == "server"]
    if not against_server:
        return Guarantee(note=note)
    least = min(against_server, key=lambda one: one.epsilon)
    return Guarantee(least.epsilon, least.delta, note=note)


def guarantee_of_app(app: ClientApp) -> Guarantee:
    """What Flower's `LocalDpMod` guarantees where an app has one, beside what it is told; else nothing."""
    try:
        checks = check_app(app)
    except (ConfigError, PrivacyError) as error:
        return Guarantee(note=str(error))
    if not checks:
        return Guarantee()
    first = checks[0]
    return Guarantee(first.actual, first.delta, None if first.holds else first.claimed, first.sentence)
