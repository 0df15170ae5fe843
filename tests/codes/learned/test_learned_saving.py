import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedeff.codes.learned import LearnedCode, PackedCode, ParityModel, ResidualCode, fit, load, save
from fedeff.core.errors import CodeError

RECIPES = [
    LearnedCode(2, 1, "conv", "kl"),
    ParityModel(2, 2, "concat"),
    ResidualCode(3, 2),
    ResidualCode(2, 1, "own"),
    PackedCode(3, 2),
]


@pytest.fixture
def saved(function, samples, tmp_path):
    path = tmp_path / "code.safetensors"
    save(fit(PackedCode(2, 1), function, samples, steps=2), path)
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_what_was_saved_is_loaded_bit_for_bit(recipe, function, samples, tmp_path):
    code = fit(recipe, function, samples, steps=2, seed=7)
    save(code, tmp_path / "a")
    again = load(tmp_path / "a", function)
    assert (again.recipe, again.shapes, again.record) == (code.recipe, code.shapes, code.record)
    assert again.record.seed == 7
    inputs, mask = samples[: code.k].numpy(), np.arange(code.k + code.r) > 0
    parities = code.encode(inputs)
    assert again.encode(inputs).tobytes() == parities.tobytes()
    for ours, theirs in zip(code.parity_models, again.parity_models, strict=True):
        assert torch.equal(ours(torch.from_numpy(parities)), theirs(torch.from_numpy(parities)))
    outputs = np.random.default_rng(0).standard_normal((code.k + code.r, 4)).astype(np.float32)
    ours, theirs = code.decode(outputs, mask), again.decode(outputs, mask)
    assert ours.values.tobytes() == theirs.values.tobytes()
    assert ours.quality.tobytes() == theirs.quality.tobytes()
    save(again, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_function_is_needed_only_for_its_architecture(function, samples, saved, tmp_path):
    assert load(saved).recipe.k == 2
    save(fit(ParityModel(2, 1), function, samples, steps=1), tmp_path / "parm")
    with pytest.raises(CodeError, match="give the function as well"):
        load(tmp_path / "parm")


def test_another_function_is_refused(function, saved):
    function[1].bias.data[0] += 1
    with pytest.raises(CodeError, match="fitted to another function"):
        load(saved, function)


def test_a_file_that_is_not_there(saved, tmp_path):
    for place in ("none", "."):
        with pytest.raises(CodeError) as error:
            load(tmp_path / place)
        assert "\n" not in str(error.value)
    with pytest.raises(CodeError, match="cannot write"):
        save(load(saved), tmp_path / "no" / "folder")


def test_damage_is_refused_in_one_line(saved):
    """Cut short anywhere, or any of its header's bytes changed: an error of ours, or the code as it was."""
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in (0, 1, 8, 50, header, len(whole) - 1)] + [whole + b"x"]
    damaged += [_flipped(whole, place, rng) for place in rng.choice(header, 80, replace=False)]
    said = [_refusal(saved, content) for content in damaged]
    assert "\n" not in "".join(said)
    assert all(said[:7])
    assert sum(map(bool, said)) > 50


def _flipped(content, place, rng):
    return content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]


def _refusal(path, content):
    """What is said of a file with this content; nothing if it is loaded."""
    path.write_bytes(content)
    try:
        load(path)
    except CodeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("find", "put"),
    [
        (b'\\"k\\": 2', b'\\"k\\": 3'),
        (b'\\"kind\\": \\"PackedCode\\"', b'\\"kind\\": \\"Pickled\\",\\"a\\":0'),
        (b'\\"format\\": 1', b'\\"format\\": 9'),
        (b'\\"r\\": 1', b'\\"r\\": 0'),
        (b'\\"seed\\": 0', b'\\"seek\\": 0'),
    ],
)
def test_metadata_that_contradict_the_arrays_are_refused(find, put, saved):
    whole = saved.read_bytes()
    assert whole.count(find) == 1
    put = put.ljust(len(find)) if len(put) <= len(find) else put[: len(find)]
    saved.write_bytes(whole.replace(find, put))
    with pytest.raises(CodeError, match=re.escape(str(saved))):
        load(saved)


def test_other_safetensors_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "model", {"format": "pt"})
    with pytest.raises(CodeError, match="not a learned code"):
        load(tmp_path / "model")
