"""Tables, figures and HTML pages, from records only."""

from fedeff.report.comparison import Comparison, Group, Spread, compare_runs
from fedeff.report.comparison_report import write_comparison
from fedeff.report.partition import partition_figure
from fedeff.report.run import Run, read_run
from fedeff.report.run_report import write_report
from fedeff.report.tensorboard import TensorBoardWriter, write_tensorboard
from fedeff.report.theme import write_figure
from fedeff.report.units import human_bytes, human_seconds, percent

__all__ = [
    "Comparison",
    "Group",
    "Run",
    "Spread",
    "TensorBoardWriter",
    "compare_runs",
    "human_bytes",
    "human_seconds",
    "partition_figure",
    "percent",
    "read_run",
    "write_comparison",
    "write_figure",
    "write_report",
    "write_tensorboard",
]
