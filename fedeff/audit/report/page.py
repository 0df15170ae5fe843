"""The page of an audit: the verdict first, then what was rebuilt, then why it is to be believed."""

from collections.abc import Sequence

from fedeff.audit.report.charts import layers_figure, noise_figure
from fedeff.audit.report.strips import columns_of, strips_figure
from fedeff.audit.report.summary import floor_db_of
from fedeff.audit.report.tables import (
    attacks_table,
    claims_table,
    configuration_table,
    outcomes_table,
    provenance_table,
    seen_table,
    skipped_table,
    threat_table,
)
from fedeff.audit.report.tiles import rounds_said, tiles_of
from fedeff.audit.report.tokens import lines_of, tokens_figure
from fedeff.audit.report.words import BADGES, NOT_SHOWN
from fedeff.audit.result import AuditResult
from fedeff.report.page import Badge, Key, Page, Picture, Section
from fedeff.report.units import percent

__all__ = ["audit_page"]

_FOOTER = (
    "Made by fedeff from the record beside this page. It may hold training samples: its files are readable "
    "by their owner alone. Bytes are payload: the arrays that travelled, without headers."
)


def audit_page(result: AuditResult) -> Page:
    """The page, section by section; what has no data is left out."""
    sections = [
        _samples(result),
        _texts(result),
        _why(result),
        *_attacks(result),
        _skipped(result),
        _seen(result),
        _threats(result),
        _layers(result),
        _noise(result),
        _claims(result),
        Section("What a PASS does not mean", points=NOT_SHOWN),
        Section("How this was made", tables=(provenance_table(result), configuration_table(result))),
    ]
    return Page(
        title=result.verdict.sentence.removeprefix(f"{result.verdict.outcome}: "),
        subtitle=f"Gradient-leakage audit of {result.name}",
        facts=_facts(result),
        badge=Badge(result.verdict.outcome, BADGES[result.verdict.outcome]),
        tiles=tiles_of(result),
        sections=tuple(section for section in sections if section is not None),
        footer=_FOOTER,
    )


def _facts(result: AuditResult) -> tuple[str, ...]:
    return (
        result.model,
        result.dataset,
        f"{result.threat} attacker",
        f"{result.tier} tier",
        result.provenance.started_at[:10],
        *(("samples withheld",) if result.is_redacted else ()),
    )


def _samples(result: AuditResult) -> Section | None:
    columns = columns_of(result.trials, result.rules)
    if not columns:
        return None
    attacks = sorted({trial.samples.attack for trial in result.trials if trial.samples is not None})
    note = (
        f"Rebuilt by {', '.join(attacks)}; each trial's best rows. The floor's picture is the mean of public "
        "rows, its number the better of two guesses. A frame marks a leak: at least "
        f"{result.rules.psnr_db:g} dB and {result.rules.gain_db:g} dB above the floor."
    )
    if result.is_redacted:
        note += " Samples are withheld from this report; --no-redact shows them."
    picture = Picture(
        "Original, rebuilt, floor and control",
        strips_figure(columns, result.is_redacted),
        note,
        wide=True,
        photo=True,
    )
    return Section("What was rebuilt", pictures=(picture,))


def _texts(result: AuditResult) -> Section | None:
    lines = lines_of(result.trials)
    if not lines:
        return None
    drawn = tokens_figure(lines, result.vocabulary)
    note = (
        "Above what the client trained on, below what was rebuilt: filled where exact, struck out where not."
    )
    return Section("What was rebuilt", pictures=(Picture("Token by token", drawn, note, wide=True),))


def _why(result: AuditResult) -> Section:
    points = tuple(_capital(reason) + "." for reason in result.verdict.reasons) or (
        "No sample came too near, none was identified, the control's attacks work, and trials were enough.",
    )
    if result.fix is not None:
        cost = result.fix.accuracy_cost
        price = "" if cost is None else f" It costs {100 * cost:.1f} points of accuracy."
        settings = " ".join(f"{name}={value}" for name, value in result.fix.settings.items())
        points += (
            f"Cheapest fix: {result.fix.sentence}{price} Set {settings}; audit that before you rely on it.",
        )
    guarantee = result.guarantee
    points += (f"Formal guarantee: {guarantee}.{_claimed(guarantee.claimed)}",)
    return Section("Why this verdict", points=points)


def _claimed(claimed: float | None) -> str:
    if claimed is None:
        return ""
    return f" The configuration's own words come to epsilon = {claimed:.3g}: that is not what protects here."


def _capital(said: str) -> str:
    return said[:1].upper() + said[1:]


def _attacks(result: AuditResult) -> list[Section]:
    worst = " The worst case knows labels and private statistics too." if result.worst_case else ""
    return [
        Section(
            "Attacks",
            "In how many trials each leaked, and the best row of any. The control is the same attack without "
            f"the defence: what fails there too says nothing by failing here.{worst}",
            tables=(outcomes_table(result),),
        ),
        Section(
            "Attacks in numbers",
            "On what clients send as configured; of each trial its best row. Unfinished: ended by its time, "
            "or with a loss that still fell.",
            tables=(attacks_table(result),),
        ),
    ]


def _skipped(result: AuditResult) -> Section | None:
    skipped = skipped_table(result)
    return None if skipped is None else Section("Attacks that do not apply", tables=(skipped,))


def _seen(result: AuditResult) -> Section | None:
    if not result.seen:
        return None
    known = sum(one.known_share * _entries(one.shape) for one in result.seen)
    total = sum(_entries(one.shape) for one in result.seen)
    summed = result.clients_summed
    whose = "one client" if summed == 1 else f"the sum of {summed} clients"
    several = result.exchanges > 1
    when = f"each of {rounds_said(result)}" if several else rounds_said(result)
    first = " The table is of the first round; attacks had all of them." if several else ""
    return Section(
        "What the server saw",
        f"{total:,} numbers of {whose} in {when}, {percent(known / max(1, total))} of them known, read from "
        f"the bytes that travelled.{first}",
        tables=(seen_table(result),),
    )


def _entries(shape: Sequence[int]) -> int:
    entries = 1
    for size in shape:
        entries *= size
    return entries


def _threats(result: AuditResult) -> Section:
    return Section("Who attacks", "What the verdict assumes of the attacker.", tables=(threat_table(result),))


def _layers(result: AuditResult) -> Section | None:
    if not result.layers:
        return None
    picture = Picture("Layer by layer", layers_figure(result.layers, result.rules), wide=True)
    return Section(
        "What each layer gives away",
        "The first control again, one undefended row and step, with one layer known and nothing else; in "
        "brackets how many numbers that is. Images are sought with the labels that the whole update tells; "
        "the best of any attack is drawn, in orange where it leaks. Labels are those that this layer tells.",
        (picture,),
    )


def _noise(result: AuditResult) -> Section | None:
    if not result.noise:
        return None
    keys = [Key("best attack", 0)]
    keys += [Key("bound without prior", 1)] if any(p.unbiased_db is not None for p in result.noise) else []
    keys += [Key("bound with prior", 2)] if any(p.prior_db is not None for p in result.noise) else []
    drawn = noise_figure(result.noise, result.rules, floor_db_of(result.trials))
    picture = Picture("PSNR against noise", drawn, keys=tuple(keys)).widened()
    return Section(
        "What noise buys",
        "The first control again, one undefended row and step, with Gaussian noise on each value, of a "
        "deviation that the attacker knows. The bounds are what is expected at best of this row with its "
        "label known: without a prior (Cramér-Rao), and with one as wide as public rows are (van Trees, an "
        "approximation). One draw strays by a dB or two, and keeping to the range of inputs is a prior, too: "
        "the attack may lie above the first bound.",
        (picture,),
    )


def _claims(result: AuditResult) -> Section | None:
    if not result.claims:
        return None
    return Section("What is said to protect", tables=(claims_table(result),))
