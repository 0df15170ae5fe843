"""The page as Markdown, for a pull request or a mail."""

from collections.abc import Mapping

from fedeff.report.page import Page, Section, Table

__all__ = ["markdown_of"]


def markdown_of(page: Page, pictures: Mapping[str, str]) -> str:
    """The page's words, tables and pictures, these by their file names as `pictures` gives them."""
    word = f"**{page.badge.word}**: " if page.badge else ""
    blocks = [
        f"# {page.subtitle}",
        f"{word}{page.title}",
        " · ".join(page.facts),
        _table(("", "", ""), tuple((tile.label, tile.value, tile.note) for tile in page.tiles)),
    ]
    for section in page.sections:
        blocks += _section(section, pictures)
    return "\n\n".join(block for block in (*blocks, page.footer) if block) + "\n"


def _section(section: Section, pictures: Mapping[str, str]) -> list[str]:
    blocks = [f"## {section.title}", section.intro, "\n".join(f"- {point}" for point in section.points)]
    for picture in section.pictures:
        blocks += [f"![{picture.title}]({pictures[picture.title]})", picture.note]
    for table in section.tables:
        blocks += [f"**{table.title}**" if table.title else "", _of(table)]
    return blocks


def _of(table: Table) -> str:
    width = max((len(row) for row in table.rows), default=len(table.header))
    return _table(table.header or ("",) * width, table.rows, numbers=table.numbers)


def _table(header: tuple[str, ...], rows: tuple[tuple[str, ...], ...], numbers: bool = False) -> str:
    if not rows:
        return ""
    rule = ["---", *(("---:" if numbers else "---",) * (len(header) - 1))]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, tuple(rule), *rows))


def _cell(said: str) -> str:
    return said.replace("|", "\\|").replace("\n", " ")
