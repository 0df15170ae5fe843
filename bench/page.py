"""The page of results: targets first, then each row's cases with their ratios."""

from typing import Any

from bench.figures import Results
from bench.harness import Case
from bench.rows.row import Row

__all__ = ["page", "table"]

_VERSIONS = ("python", "flwr", "ray", "torch", "numpy", "pfl")


def page(head: str, rows: dict[str, Row], records: dict[str, Any]) -> str:
    """The whole page, which begins with `head`, from the rows that have records."""
    measured = {key: row for key, row in rows.items() if key in records}
    parts = [head, "## Targets\n", _targets(measured, records)]
    for key, row in measured.items():
        parts += [f"## {row.title}\n", _cases(row, Results(records[key]["cases"])), _under(row, records[key])]
    parts += ["## Machine\n", _machine(records)]
    return "\n".join(parts)


def _targets(rows: dict[str, Row], records: dict[str, Any]) -> str:
    lines = []
    for key, row in rows.items():
        lines += [
            [row.title, figure.what, figure.value, figure.target, figure.marked]
            for figure in row.figures(Results(records[key]["cases"]))
        ]
    return table(["row", "figure", "measured", "target", ""], lines)


def _cases(row: Row, results: Results) -> str:
    timed = [case for case in row.cases if not case.memory]
    rate = any(case.messages for case in timed)
    columns = [case for name in row.against for case in timed if case.name == name]
    signs = [f"rate ÷ {case.name}" if rate else f"÷ {case.name}" for case in columns]
    head = ["case", "messages/s" if rate else "seconds a round", *signs, "repeats"]
    lines = [
        [
            case.label,
            _value(case, results),
            *(_against(case, one, results) for one in columns),
            _count(case, results),
        ]
        for case in timed
        if case.name in results.samples
    ]
    peaks = [case for case in row.cases if case.memory and case.name in results.samples]
    memory = [[case.label, _peak(case, results), _count(case, results)] for case in peaks]
    tables = (table(head, lines), table(["peak memory of all processes (PSS)", "GB", "repeats"], memory))
    return "\n".join(filter(None, tables))


def _value(case: Case, results: Results) -> str:
    seconds = results.spread(case.name)
    if seconds is None:
        return results.error(case.name)
    if case.messages:
        return seconds.map(lambda s: case.messages / s).text(0)
    return seconds.text(3 if seconds.median < 10 else 1)


def _against(case: Case, other: Case, results: Results) -> str:
    ratio = results.ratio(case.name, other.name)
    if ratio is None:
        return "—"
    if case.messages:
        scale = case.messages / other.messages
        ratio = ratio.map(lambda value: scale / value)
    return f"{ratio.median:.2f}"


def _peak(case: Case, results: Results) -> str:
    peak = results.spread(case.name, lambda sample: sample["peak_bytes"] / 1e9)
    return results.error(case.name) if peak is None else peak.text(2)


def _count(case: Case, results: Results) -> str:
    return str(sum("error" not in sample for sample in results.samples[case.name]))


def _under(row: Row, record: dict[str, Any]) -> str:
    loads = [s["load"] for samples in record["cases"].values() for s in samples if "load" in s]
    when = f"Measured {record['machine']['time_utc']} UTC at commit {record['machine']['commit']}"
    busy = f"; load before a case {min(loads):.1f}–{max(loads):.1f}" if loads else ""
    how = " A quick run: few rounds, one repeat." if record["quick"] else ""
    return f"{row.note}{when}{busy}.{how}\n"


def _machine(records: dict[str, Any]) -> str:
    seen = {key: record["machine"] for key, record in records.items()}
    machine = max(seen.values(), key=lambda one: one["time_utc"])
    facts = [
        f"- {machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB memory, "
        f"{machine['shm_gib']} GiB free in /dev/shm, {machine['system']}",
        "- " + ", ".join(f"{name} {machine[name]}" for name in _VERSIONS if name in machine),
        f"- {machine['workers']} workers in every engine that has workers, one torch thread in each",
    ]
    compared = [
        {k: v for k, v in one.items() if k not in ("time_utc", "commit", "shm_gib")} for one in seen.values()
    ]
    if any(one != compared[0] for one in compared):
        facts.append("- some rows ran on another machine or other versions: see the JSON beside this page")
    return "\n".join(facts) + "\n"


def table(head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, rule, *lines))
