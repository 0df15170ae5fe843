"""The model's size by round: drawn where it changes, left out where it does not."""

from fedeff.core.records import RoundRecord, append_round
from fedeff.report import write_report


def page_of(folder, sizes):
    folder.mkdir()
    for number, size in enumerate(sizes, 1):
        record = RoundRecord(number, cohort=4, arrived=3, uplink_bytes=12 * (size or 1), parameters=size)
        append_round(folder / "rounds.jsonl", record)
    return write_report(folder).read_text()


def test_a_model_that_became_smaller_is_drawn(tmp_path):
    html = page_of(tmp_path / "smaller", [4000, 4000, 1500, 1500, 1000])
    assert "Model size" in html
    assert "From 4,000 to 1,000 parameters (25.0%), changed with round 3, 5." in html
    assert 'aria-label="Parameters"' in html
    assert 'aria-label="Bytes of a reply"' in html
    assert html.count(">4,000</td>") == 2  # and in the table of rounds
    assert html.count(">1,500</td>") == 2


def test_one_that_stayed_or_is_not_known_is_not(tmp_path):
    same = page_of(tmp_path / "same", [4000, 4000])
    assert "Model size" not in same
    assert "4,000" not in same
    assert "Model size" not in page_of(tmp_path / "unknown", [None, None])
