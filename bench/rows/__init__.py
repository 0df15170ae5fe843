"""The rows of the pages: which cases run, against which references, and what is asked of them."""

from bench.rows.echo import echo
from bench.rows.large import large
from bench.rows.layerwise import many_clients, round_cost
from bench.rows.row import Row, Settings
from bench.rows.yardstick import yardstick

__all__ = ["rows", "strategy_rows"]


def rows(settings: Settings) -> dict[str, Row]:
    """The rows of `engine.md` by key, in the order of the page."""
    every = (
        yardstick(settings, "cnn", 1000, 100, app=1.15, each=0.9, folded=0.9, rounds=8, flower_rounds=4),
        yardstick(settings, "mlp", 1000, 100, app=1.3, each=1.0, folded=1.0, rounds=12, flower_rounds=4),
        yardstick(settings, "mlp", 5000, 500, app=1.3, each=1.5, folded=1.0, rounds=8, flower_rounds=3),
        echo(settings),
        large(settings),
    )
    return {row.key: row for row in every}


def strategy_rows(settings: Settings) -> dict[str, Row]:
    """The rows of `strategy_cost.md` by key, in the order of the page."""
    every = (round_cost(settings, "server"), round_cost(settings, "workers"), many_clients(settings))
    return {row.key: row for row in every}
