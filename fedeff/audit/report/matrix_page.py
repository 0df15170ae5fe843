"""The page of a matrix: which defence holds against which attack, and at what price."""

from fedeff.audit.matrix_result import MatrixCell, MatrixDefence, MatrixResult
from fedeff.audit.report.heat_map import heat_map_figure, worth_of
from fedeff.report.page import Page, Picture, Section, Table, Tile
from fedeff.report.units import human_bytes, human_seconds, percent

__all__ = ["matrix_page"]

_NOTE = (
    "The PSNR of the median trial in dB, of texts the share of exact tokens, of labels alone their F1. The "
    "stronger a cell, the more is rebuilt than is guessed without the update; a frame is a leak in at "
    "least one trial, a dash an attack that does not apply or told nothing."
)
_FOOTER = "Made by fedeff from the record beside this page. It holds no sample of anybody's."


def matrix_page(matrix: MatrixResult) -> Page:
    """The heat map, and its numbers below."""
    picture = Picture("Attacks by defences", heat_map_figure(matrix), _NOTE, wide=True, photo=True)
    intro = (
        "A naive attack takes every number that came at its word; an adaptive one knows which entries are "
        "known and how exactly. What only stops the naive one is no defence; what these attacks did not "
        "break may yet be broken."
    )
    obstacles = _obstacles(matrix)
    return Page(
        title="Attacks by defences",
        subtitle=f"Gradient-leakage audit of {matrix.name}",
        facts=(
            matrix.model,
            matrix.dataset,
            f"{matrix.threat} attacker",
            f"{matrix.tier} tier",
            matrix.provenance.started_at[:10],
        ),
        tiles=_tiles(matrix),
        sections=(
            Section("What was rebuilt under which defence", intro, (picture,)),
            Section("Defences", tables=(_defences(matrix),)),
            Section("Cells", tables=(_cells(matrix), *((obstacles,) if obstacles else ()))),
        ),
        footer=_FOOTER,
    )


def _tiles(matrix: MatrixResult) -> tuple[Tile, ...]:
    naive = [defence for defence in matrix.defences if _holds(matrix, defence, adaptive=False)]
    # Knowing of a defence mostly helps, but what a naive attack breaks is broken.
    held = [defence for defence in naive if _holds(matrix, defence, adaptive=True)]
    rated = [defence for defence in held if defence.accuracy is not None]
    best = max(rated, key=lambda defence: defence.accuracy or 0.0, default=None)
    return (
        Tile("Defences", str(len(matrix.defences)), f"{len(matrix.attacks)} attacks on each"),
        Tile("Seem to hold", str(len(naive)), "against naive attacks"),
        Tile("Not broken", str(len(held)), "by adaptive ones either"),
        Tile("Cheapest not broken", best.name if best else "–", percent(best.accuracy) if best else ""),
    )


def _holds(matrix: MatrixResult, defence: MatrixDefence, adaptive: bool) -> bool:
    """Whether attacks of this kind were tried under the defence, and none leaked in any trial."""
    tried = [cell for cell in _of(matrix, defence) if cell.adaptive is adaptive and cell.trials]
    return bool(tried) and not any(cell.leaks for cell in tried)


def _of(matrix: MatrixResult, defence: MatrixDefence) -> list[MatrixCell]:
    return [cell for cell in matrix.cells if cell.defence == defence.name]


def _defences(matrix: MatrixResult) -> Table:
    rows = tuple(
        (
            one.name,
            percent(one.accuracy),
            "–" if one.uplink_bytes is None else human_bytes(one.uplink_bytes),
            "none" if one.epsilon is None else f"{one.epsilon:.3g}",
            " ".join(f"{name}={value}" for name, value in one.settings.items()) or "–",
        )
        for one in matrix.defences
    )
    return Table(("Defence", "accuracy", "uplink a round", "epsilon", "settings"), rows, numbers=False)


def _cells(matrix: MatrixResult) -> Table:
    rows = tuple(
        (
            f"{cell.attack} / {cell.defence}",
            "adaptive" if cell.adaptive else "naive",
            f"{cell.leaks} of {cell.trials}",
            worth_of(cell),
            "–" if cell.gain_db is None else f"{cell.gain_db:+.1f}",
            percent(cell.labels_f1),
            f"{cell.unfinished} of {cell.trials}" if cell.unfinished else "–",
            "–" if cell.seconds is None else human_seconds(cell.seconds),
        )
        for cell in matrix.cells
        if cell.trials
    )
    measured = ("leaked", "PSNR or share", "over floor, dB", "labels (F1)", "unfinished", "seconds")
    return Table(("Cell", "kind", *measured), rows, fold=f"All {len(rows)} cells{_unfinished(matrix)}")


def _unfinished(matrix: MatrixResult) -> str:
    """What there is to say of attacks that did not come to their end; empty where all did."""
    many = sum(cell.unfinished > 0 for cell in matrix.cells)
    return f"; in {many} an attack did not come to its end" if many else ""


def _obstacles(matrix: MatrixResult) -> Table | None:
    why = {f"{cell.attack} / {cell.defence}": cell.obstacle for cell in matrix.cells if cell.obstacle}
    if not why:
        return None
    return Table(
        ("No number", "because"), tuple(why.items()), numbers=False, fold=f"{len(why)} without a number"
    )
