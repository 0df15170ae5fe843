"""One self-contained HTML page: headline numbers, sections of pictures and tables, nothing loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from fedeff.report.theme import COLOURS, inline_svg

__all__ = ["Badge", "Key", "Page", "Picture", "Section", "Table", "Tile", "page_html", "write_page"]

_FOOTER = (
    "Drawn by fedeff from the records of the run alone. "
    "Bytes are payload: the arrays that travelled, without headers."
)


@dataclass(frozen=True)
class Badge:
    """A word in the colour of a series above the title: what the page comes to."""

    word: str
    series: int


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a label, the number of its series, whether it is a line or an area."""

    label: str
    series: int
    line: bool = True


@dataclass(frozen=True)
class Picture:
    """A figure with its title, what to see in it, and a legend where it needs one.

    `photo`: its images are not drawings, they look the same on a dark page.
    """

    title: str
    drawn: Figure
    note: str = ""
    keys: tuple[Key, ...] = ()
    wide: bool = False
    photo: bool = False

    def widened(self, height_in: float = 3.4) -> "Picture":
        """The same picture across the whole page."""
        self.drawn.set_size_inches(11.0, height_in)
        return replace(self, wide=True)


@dataclass(frozen=True)
class Table:
    """Rows of text below a header; all but the first column are set right where `numbers`."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    fold: str = ""  # the words to click on, for a long table that starts closed
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, a list of points, pictures, then tables."""

    title: str
    intro: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    keys: tuple[Key, ...] = ()
    points: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything on the page, from top to bottom."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = ()
    alert: str = ""
    facts: tuple[str, ...] = field(default=())
    badge: Badge | None = None
    footer: str = _FOOTER


def write_page(page: Page, path: Path) -> Path:
    """Write the page whole (a reader finds the old one or the new one); returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page_html(page), encoding="utf-8")
    return partial.replace(path)


def page_html(page: Page) -> str:
    """The page as text, for whoever writes it in a way of their own."""
    return _environment().get_template("page.html").render(page=page, colours=COLOURS, svg=_svg)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("fedeff.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _svg(picture: Picture, path: Sequence[int]) -> Markup:
    """Our own drawing, hence safe to put into the page as it is."""
    return Markup(inline_svg(picture.drawn, "f" + "-".join(map(str, path)), picture.title))
