import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.core.errors import ConfigError
from fedeff.core.records import RoundRecord, append_round, read_rounds
from fedeff.report import Spread, compare_runs, read_run, write_comparison
from fedeff.report.comparison import common_accuracy, reached
from fedeff.report.comparison_report import comparison_page, group_curve
from fedeff.report.curves import AXES, accuracy_of


def small_run(folder, seed, accuracies, strategy="fedavg", step=10, **settings):
    folder.mkdir(parents=True)
    lines = [f'strategy = "{strategy}"', f"seed = {seed}", *(f"{k} = {v}" for k, v in settings.items())]
    (folder / "config.toml").write_text("\n".join(lines))
    for number, accuracy in enumerate(accuracies, 1):
        append_round(
            folder / "rounds.jsonl",
            RoundRecord(
                number, accuracy=accuracy, uplink_bytes_total=step * number, wall_s_total=float(number)
            ),
        )
    return folder


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_spread_is_the_sample_standard_deviation(values):
    spread = Spread.of(values)
    assert spread.n == len(values)
    assert spread.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert spread.deviation == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_spread_of_one_value_or_none():
    assert Spread.of([]) is None
    assert Spread.of([None, math.nan]) is None
    alone = Spread.of([2.0, None])
    assert (alone.mean, alone.n) == (2.0, 1)
    assert math.isnan(alone.deviation)


def test_seeds_are_gathered_and_the_table_is_that_by_hand(tmp_path):
    runs = [
        small_run(tmp_path / "a", 1, [0.2, 0.5, 0.6]),
        small_run(tmp_path / "c", 5, [0.1, 0.45, 0.5], strategy="layerwise", step=4),
        small_run(tmp_path / "b", 0, [0.3, 0.4, 0.8]),
    ]
    comparison = compare_runs(runs)
    assert [group.label for group in comparison.groups] == ["fedavg", "layerwise"]
    assert [run.name for run in comparison.groups[0].runs] == ["b", "a"]
    assert comparison.common_accuracy == 0.5
    fedavg, layerwise = (dict(zip(comparison.header, row, strict=True)) for row in comparison.rows)
    assert fedavg == {
        "Run": "fedavg",
        "n": "2",
        "Final accuracy": "70.0 ± 14.1%",
        "Best accuracy": "70.0 ± 14.1%",
        "Rounds": "3",
        "Uplink": "30 B",
        "Wall time": "3 s",
        "Rounds to 50.0%": "2.50 ± 0.71",
        "Uplink to 50.0%": "25.0 ± 7.1 B",
        "Wall time to 50.0%": "2.50 ± 0.71 s",
    }
    assert layerwise["Uplink to 50.0%"] == "12 B"
    assert layerwise["Final accuracy"] == "50.0%"
    assert comparison.spreads[1]["Uplink"] == Spread(12.0, pytest.approx(math.nan, nan_ok=True), 1)


def test_groups_that_differ_in_a_setting_are_named_by_it(tmp_path):
    runs = [
        small_run(tmp_path / f"r{seed}{cohort}", seed, [0.5], cohort=cohort, rounds=3)
        for cohort in (10, 20)
        for seed in (0, 1)
    ]
    comparison = compare_runs(runs)
    assert [group.label for group in comparison.groups] == ["fedavg cohort=10", "fedavg cohort=20"]
    assert [len(group.runs) for group in comparison.groups] == [2, 2]


def test_a_run_that_never_reaches_the_level_has_a_dash(tmp_path):
    run = read_run(small_run(tmp_path / "a", 0, [0.2, None, 0.3]))
    assert reached(run, 0.3).server_round == 3
    assert reached(run, 0.31) is None
    assert common_accuracy([run, read_run(small_run(tmp_path / "b", 0, [None]))]) is None


def test_a_groups_curve_is_the_mean_over_the_rounds_that_all_runs_have(tmp_path):
    runs = [
        small_run(tmp_path / "a", 0, [0.2, 0.4, 0.6]),
        small_run(tmp_path / "b", 1, [0.4, 0.4], step=30),
    ]
    (group,) = compare_runs(runs).groups
    curve = group_curve(group, AXES[1], accuracy_of)
    assert curve.x == [20.0, 40.0]
    assert curve.y == pytest.approx([0.3, 0.4])
    assert curve.band == pytest.approx([math.sqrt(0.02), 0.0])


def test_markdown_and_terminal_tables_hold_the_same_cells(runs):
    from rich.console import Console

    comparison = compare_runs(runs)
    lines = comparison.markdown().splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| fedavg | 3 | ")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison.table())
    for row in comparison.rows:
        assert all(cell in capture.get() for cell in row)


def test_many_groups_become_rows(tmp_path):
    runs = [small_run(tmp_path / str(cohort), 0, [0.5], cohort=cohort) for cohort in range(1, 7)]
    assert compare_runs(runs).table().row_count == 6


def test_the_page_lays_runs_over_each_other(runs, tmp_path):
    path = write_comparison(runs, tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / "comparison.html"
    html = path.read_text()
    assert "http" not in html
    for title in ("rounds", "uplink bytes", "virtual time", "wall time"):
        assert f'aria-label="Accuracy against {title}"' in html
    assert all(run.name in html for run in runs)
    assert "fedavg vs layerwise" in html
    assert write_comparison(runs[:1], tmp_path / "one.html").name == "one.html"


def test_the_headline_names_the_cheaper_and_owns_up_to_noise(tmp_path):
    runs = [
        small_run(tmp_path / "a", 0, [0.5, 0.6]),
        small_run(tmp_path / "b", 1, [0.5, 0.7]),
        small_run(tmp_path / "c", 0, [0.5, 0.64], strategy="layerwise", step=4),
    ]
    tiles = {tile.label: tile for tile in comparison_page(compare_runs(runs)).tiles}
    assert tiles["Highest final accuracy"].value == "fedavg"
    assert tiles["Highest final accuracy"].note == "65.0 ± 7.1%, 1.0 points over layerwise, within the spread"
    uplink = tiles["Least uplink to 60.0%"]
    assert (uplink.value, uplink.note) == ("layerwise", "8 B, 0.40× fedavg")
    assert tiles["Least wall time to 60.0%"].value == "equal"


def test_runs_without_rounds_compare_to_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.toml").write_text("seed = 1\n")
    html = write_comparison([tmp_path / "a"], tmp_path).read_text()
    assert "No round is on record" in html


def test_no_run_is_an_error():
    with pytest.raises(ConfigError, match="name at least one run folder"):
        compare_runs([])


def test_synthetic_runs_are_what_the_records_say(runs):
    assert len(read_rounds(runs[0] / "rounds.jsonl")) == 31
