"""The report: verdict first, pictures there, files private, and no sample where it is withheld."""

import base64
import json
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from audit.results import audit, full_audit, image_score, matrix, text_samples, trial
from matplotlib.image import imread

from fedeff.audit.judging.trial import Rows, Score
from fedeff.audit.report import write_audit, write_matrix
from fedeff.audit.result import read_result

FILES = {
    "audit.json",
    "layer-by-layer.png",
    "original-rebuilt-floor-and-control.png",
    "psnr-against-noise.png",
    "report.html",
    "report.md",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a report with its samples."""
    return write_audit(full_audit(), tmp_path_factory.mktemp("shown") / "out").parent


@pytest.fixture(scope="module")
def redacted(tmp_path_factory):
    """The folder of the same report on data that are not ours to show."""
    return write_audit(full_audit(dataset="hospital"), tmp_path_factory.mktemp("redacted") / "out").parent


class Page(HTMLParser):
    """The texts and pictures of a page in order, and whatever it would load."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.labels, self.loads = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.labels += [found["aria-label"]] if tag == "svg" and "aria-label" in found else []
        self.loads += [
            v
            for k, v in attrs
            if k in ("src", "href", "xlink:href") and v and not v.startswith(("#", "data:"))
        ]

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []


def test_files_are_readable_by_their_owner_alone(shown):
    assert {path.name for path in shown.iterdir()} == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in shown.iterdir()} == {0o600}
    assert stat.S_IMODE(shown.stat().st_mode) == 0o700


def test_a_report_is_written_over_its_predecessor(tmp_path):
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "report.html").chmod(0o644)
    path = write_audit(audit([trial(image_score())]), tmp_path)
    assert path == tmp_path / "report.html"
    assert "INCONCLUSIVE" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_verdict_comes_first_and_nothing_is_loaded(shown):
    page = Page((shown / "report.html").read_text().partition("<body>")[2])
    assert page.texts[0] == "FAIL"
    assert page.texts[1].startswith("levenberg-marquardt rebuilt a training image at 34 dB, 24 dB above")
    assert page.labels == ["Original, rebuilt, floor and control", "Layer by layer", "PSNR against noise"]
    assert page.loads == []
    for heading in (
        "Why this verdict",
        "Attacks",
        "What the server saw",
        "Who attacks",
        "What a PASS does not mean",
    ):
        assert heading in page.texts
    words = " ".join(page.texts)
    for said in (
        "curious (this audit)",
        "epsilon = 8.1 at delta 1e-05",
        "Cheapest fix",
        "refuted here",
        "worst case",
    ):
        assert said in words
    assert full_audit().configuration_sha256 in words


def test_markdown_says_the_same_and_names_its_pictures(shown):
    text = (shown / "report.md").read_text()
    assert text.splitlines()[2].startswith("**FAIL**: levenberg-marquardt rebuilt")
    named = set(re.findall(r"\]\(([^)]+\.png)\)", text))
    assert named == {name for name in FILES if name.endswith(".png")}
    assert "## What a PASS does not mean" in text
    assert "| levenberg-marquardt | 5 of 5 · 33.9 dB | 2 of 2 · 33.0 dB | 1 of 1 · 298.0 dB |" in text


def test_the_strips_hold_the_images(shown):
    strips = imread(shown / "original-rebuilt-floor-and-control.png")[..., :3]
    assert (strips < 0.02).all(axis=2).mean() > 0.1  # black backgrounds of digits
    orange = np.abs(strips - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=2) < 0.02
    assert orange.sum() > 2000  # frames of what leaked


def contents(folder: Path) -> bytes:
    """All that was written, pictures and base64 in the page decoded as well."""
    found = b""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        found += data
        for coded in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", data):
            found += base64.b64decode(coded[: len(coded) // 4 * 4])
    return found


def test_no_byte_of_a_sample_is_in_a_redacted_report(shown, redacted):
    samples = [trial.samples for trial in full_audit().trials]
    rows = [rows for one in samples for rows in (one.original, one.rebuilt, one.control)]
    open_report, closed_report = contents(shown), contents(redacted)
    for one in rows:
        for row in one.array:
            assert row.tobytes() in open_report
            assert row.tobytes() not in closed_report
            assert row[0, 2:6].tobytes() not in closed_report
    assert (redacted / "report.html").read_text().count("<image") == len(samples)  # the floor's alone
    assert (shown / "report.html").read_text().count("<image") == 4 * len(samples)


def test_the_same_report_comes_of_other_samples_once_they_are_withheld(tmp_path):
    one = replace(full_audit(count=1), layers=(), noise=())
    other_rows = Rows.of(np.random.default_rng(8).random((1, 1, 8, 8)))
    swapped = replace(one.trials[0].samples, original=other_rows, rebuilt=other_rows, control=other_rows)
    other = replace(one, trials=(replace(one.trials[0], samples=swapped),))
    for result, name in ((one, "one"), (other, "other")):
        write_audit(result, tmp_path / name, redact=True)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_redaction_is_the_default_but_for_public_data(shown, redacted, tmp_path):
    assert not read_result(shown / "audit.json").is_redacted
    back = read_result(redacted / "audit.json")
    assert back.is_redacted
    assert back.trials[0].samples.original is None
    assert back.trials[0].samples.rebuilt_psnr_db
    assert "samples withheld" in (redacted / "report.html").read_text()
    again = write_audit(back, tmp_path, redact=False)  # what was withheld cannot be asked back
    assert "samples withheld" in again.read_text()


def text_audit():
    score = Score(rows=2, rebuilt=2, tokens=0.8, floor_tokens=0.1, exact_sequences=0.5)
    shown = replace(trial(score, attack="dager"), samples=text_samples(16))
    return audit([shown], dataset="shakespeare", configuration={}, vocabulary="abcdefghijklmnopqrstuvwxyz")


def test_texts_are_shown_token_by_token(tmp_path):
    write_audit(text_audit(), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.labels == ["Token by token"]
    original = text_samples(16).original.array
    letters = [text for text in page.texts if re.fullmatch(r"[a-z]", text)]
    assert "".join(letters[: 2 * 16 : 2]) == "".join(chr(97 + token) for token in original[0])  # above
    assert "".join(letters[1 : 2 * 16 : 2]) == "".join(
        chr(97 + token) for token in original[0]
    )  # below, exact
    assert "80.0%" in page.texts


def test_a_redacted_text_is_not_there(tmp_path):
    write_audit(text_audit(), tmp_path, redact=True)
    assert Page((tmp_path / "report.html").read_text()).labels == []
    assert all(
        one["samples"]["rebuilt"] is None
        for one in json.loads((tmp_path / "audit.json").read_text())["trials"]
    )


def test_an_audit_of_little_is_a_whole_report(tmp_path):
    page = Page(write_audit(audit([], controls=[]), tmp_path).read_text().partition("<body>")[2])
    assert page.texts[0] == "INCONCLUSIVE"
    assert "there was no positive control" in page.texts[1]
    assert page.labels == []


def test_a_pass_says_what_it_rests_on(tmp_path):
    clean = trial(image_score(9.0, tested=1, decoys=100))
    page = Page(write_audit(audit([clean] * 59), tmp_path).read_text().partition("<body>")[2])
    assert page.texts[:2] == [
        "PASS",
        "the attack that works without the defence rebuilt nothing in 59 trials; with 95% confidence fewer "
        "than 5% of updates leak to it.",
    ]
    assert "5.0%" in page.texts
    assert "no more than by chance" in page.texts


def test_a_matrix_is_a_page_with_its_picture(tmp_path):
    page = Page(write_matrix(matrix(attacks=2, defences=3), tmp_path).read_text())
    assert page.labels == ["Attacks by defences"]
    assert {"naive", "adaptive", "int8", "84.0%"} <= set(page.texts)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {
        "attacks-by-defences.png", "matrix.html", "matrix.json", "matrix.md",
    }  # fmt: skip


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to render with")
@pytest.mark.parametrize("scheme", [1, 0], ids=["light", "dark"])
def test_a_browser_draws_the_page_and_its_pictures(tmp_path, shown, scheme):
    image = tmp_path / "page.png"
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1400"),
        *(f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={image}"),
        (shown / "report.html").as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = imread(image)[..., :3]
    assert (pixels[5, 5].mean() > 0.9) == (scheme == 1)
    badge = np.array([0xD5, 0x5E, 0x00] if scheme == 1 else [0xFF, 0x8D, 0x4D]) / 255
    assert (np.abs(pixels[40:80, 70:145] - badge).max(axis=2) < 0.05).mean() > 0.5
    strips = pixels[620:1400, 220:1100]
    assert (strips < 0.02).all(axis=2).mean() > 0.1  # the digits' black, in the dark as well
    assert (strips > 0.98).all(axis=2).mean() > 0.02  # and their white
    assert (np.abs(strips - badge).max(axis=2) < 0.05).sum() > 1000


def test_several_rounds_are_said_where_it_says_what_was_seen(tmp_path):
    page = write_audit(replace(full_audit(), exchanges=4), tmp_path).read_text()
    assert "numbers of one client in each of 4 rounds" in page
    assert "The table is of the first round" in page
    assert "The table is of the first round" not in write_audit(full_audit(), tmp_path).read_text()


def test_what_a_naive_attack_breaks_is_broken_and_unfinished_attacks_are_told(tmp_path):
    plain = matrix(attacks=2, defences=1)
    cells = tuple(replace(one, leaks=0 if one.adaptive else 1, unfinished=2) for one in plain.cells[2:])
    page = Page(write_matrix(replace(plain, cells=cells), tmp_path).read_text())
    assert page.texts[page.texts.index("Not broken") + 1] == "0"
    assert "2 of 3" in page.texts
    assert "All 2 cells; in 2 an attack did not come to its end" in page.texts
