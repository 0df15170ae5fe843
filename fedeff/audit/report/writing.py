"""The files of a report: a page, Markdown, JSON and pictures that their owner alone may read."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from fedeff.audit.matrix_result import MatrixResult
from fedeff.audit.report.markdown import markdown_of
from fedeff.audit.report.matrix_page import matrix_page
from fedeff.audit.report.page import audit_page
from fedeff.audit.result import AuditResult
from fedeff.deployment.private_files import make_private_folder, replace_private
from fedeff.report.page import Page, page_html
from fedeff.report.theme import write_figure

__all__ = ["write_audit", "write_matrix"]


def write_audit(result: AuditResult, folder: Path | str, redact: bool | None = None) -> Path:
    """Write `report.html`, `report.md`, `audit.json` and pictures, mode 0600; the page's path.

    `redact` leaves out every original and rebuilt sample; None does so unless the data are public ones that
    fedeff knows. What is withheld is taken out before anything is drawn: nothing that writes ever holds it.
    Files of an earlier report in the folder are replaced.
    """
    withheld = result.is_redacted or (not result.bundled if redact is None else redact)
    shown = result.redacted() if withheld else result
    return _write(audit_page(shown), shown.to_json(), Path(folder), "report", "audit")


def write_matrix(matrix: MatrixResult, folder: Path | str) -> Path:
    """Write `matrix.html`, `matrix.md`, `matrix.json` and the picture, mode 0600; the page's path."""
    return _write(matrix_page(matrix), matrix.to_json(), Path(folder), "matrix", "matrix")


def _write(page: Page, record: bytes, folder: Path, page_name: str, record_name: str) -> Path:
    make_private_folder(folder)
    pictures = {}
    for section in page.sections:
        for picture in section.pictures:
            name = "-".join(picture.title.lower().replace(",", "").split()) + ".png"
            replace_private(folder / name, _png(picture.drawn))
            pictures[picture.title] = name
    path = folder / f"{page_name}.html"
    replace_private(folder / f"{record_name}.json", record)
    replace_private(folder / f"{page_name}.md", markdown_of(page, pictures).encode())
    replace_private(path, page_html(page).encode())
    return path


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    write_figure(drawn, buffer, "png")
    return buffer.getvalue()
