"""The page on compression: every codec is in its table, with the bits that it takes; its example runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedeff.compression import codec_names, codec_of, pack

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compression.md").read_text()
CODECS = PAGE.split("\n## Codecs\n")[1].split("\n## ")[0]
ROWS = [
    (cells[0].split("`")[1], cells[2].strip())
    for cells in (line.strip("|").split("|") for line in CODECS.splitlines() if line.startswith("| `"))
]


def test_every_codec_is_listed():
    assert {spec.split("(")[0] for spec, _ in ROWS} == set(codec_names())


@pytest.mark.parametrize(("spec", "bits"), [row for row in ROWS if re.fullmatch(r"[\d.]+", row[1])])
def test_bits_of_a_value(spec, bits):
    layer = {"w": np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)}
    blob, _ = pack(layer, codec_of(spec), {}, np.random.default_rng(1))
    assert 8 * len(blob) / 1e6 == pytest.approx(float(bits), abs=0.006)


def test_specs_of_the_page_are_read():
    block = re.search(r"```text\n(.*?)\n```", PAGE, re.DOTALL).group(1)
    assert [codec_of(spec).name for spec in re.split(r"\s{2,}|\n", block)][:2] == ["tern_grad", "tern_grad"]


def test_the_example_runs():
    scope = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1), scope)
    assert scope["found"].keys() == scope["arrays"].keys() == scope["memories"].keys()
