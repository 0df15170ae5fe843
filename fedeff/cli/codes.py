"""`fedeff codes`: coded computation from the command line."""

import typer

from fedeff.cli.code_benchmark import BENCH_EXAMPLES, bench
from fedeff.cli.code_planning import PLAN_EXAMPLES, plan
from fedeff.cli.code_training import TRAIN_EXAMPLES, train
from fedeff.cli.teaching import teaching

__all__ = ["codes"]

codes = typer.Typer(help="Coded computation: choose, train and measure codes.", no_args_is_help=True)
codes.command("plan", cls=teaching(*PLAN_EXAMPLES))(plan)
codes.command("train", cls=teaching(*TRAIN_EXAMPLES))(train)
codes.command("bench", cls=teaching(*BENCH_EXAMPLES))(bench)
