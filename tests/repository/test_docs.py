"""The documentation says what is there: settings, options, pages, commands."""

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from fedeff.app.settings import documented, documented_own
from fedeff.cli.main import command
from fedeff.models import FedPara, LoRA, build, describe, model_names
from fedeff.strategies import strategy_names, strategy_spec

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")])


def settings_table() -> str:
    """The table of `docs/settings.md`, made from the settings themselves."""
    rows = [
        f"| `{d.key}` | `{json.dumps(d.default)}` | {d.meaning} | {d.allowed} |"
        for d in (*documented(), *documented_own())
    ]
    return "\n".join(["| key | default | meaning | allowed |", "| --- | --- | --- | --- |", *rows])


def test_the_settings_page_lists_every_setting_as_it_is() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(), settings_table()


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_has_a_page_with_its_settings_and_picture(name: str) -> None:
    page = (ROOT / "docs" / "strategies" / f"{name}.md").read_text()
    assert f"(../images/travel-{name}.svg)" in page
    assert f"strategies/{name}.md" in (ROOT / "mkdocs.yml").read_text()
    assert f"]({name}.md)" in (ROOT / "docs" / "strategies" / "index.md").read_text()
    shared = {s.key for s in strategy_spec("fedavg").settings} | {"batch-size", "learning-rate"}
    own = [s for s in strategy_spec(name).settings if s.key not in shared]
    rows = [f"| `{s.key}` | `{json.dumps(s.default)}` | {s.meaning} |" for s in own]
    assert [row for row in rows if row not in page] == []


def models_table() -> str:
    """The table of `docs/clients.md`, made from the models' cards."""
    rows = []
    for card in map(describe, model_names()):
        shape = " x ".join(map(str, card.input_shape))
        rows.append(f"| `{card.name}` | {card.summary} | {shape} | {card.classes} | {card.parameters:,} |")
    head = ["| name | what it is | input | classes | parameters |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def test_the_clients_page_lists_every_model_as_it_is() -> None:
    assert models_table() in (ROOT / "docs" / "clients.md").read_text(), models_table()


LOW_RANK = (FedPara(), FedPara(0.1), FedPara(rank=2), LoRA(1), LoRA(4), LoRA(4, freeze_a=True))


@pytest.mark.parametrize("name", ["cnn", "resnet20-small", "gru"])
def test_the_clients_page_lists_what_models_of_low_rank_have(name: str) -> None:
    card = describe(name)
    whole = build(name, classes=card.classes, input_shape=card.input_shape)
    sizes = [sum(p.numel() for p in made.apply(whole).parameters()) for made in LOW_RANK]
    row = " | ".join([f"| `{name}`", *(f"{size:,}" for size in (card.parameters, *sizes))]) + " |"
    assert row in (ROOT / "docs" / "clients.md").read_text(), row


def test_every_decision_is_listed_and_reachable() -> None:
    folder = ROOT / "docs" / "decisions"
    index, nav = (folder / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = [path.name for path in folder.glob("*.md") if path.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index or f"decisions/{name}" not in nav] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Links to files, and code spans that look like files of the repository."""
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    named = re.findall(r"`((?:fedeff|tests|bench|examples|docs)/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


def test_pages_import_names_that_exist() -> None:
    found = []
    for page in PAGES:
        for module, names in re.findall(r"^from (fedeff[\w.]*) import ([\w, ]+)$", page.read_text(), re.M):
            loaded = importlib.import_module(module)
            found += [(page.name, module, n) for n in re.split(r",\s*", names) if not hasattr(loaded, n)]
    assert found == []


def test_pages_name_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    said = {name for page in PAGES for name in re.findall(r"(?:\$ |`)make ([a-z-]+)", page.read_text())}
    assert said <= targets


def test_what_is_installed_is_what_is_pinned() -> None:
    """Every direct requirement has an exact pin that fits its range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    wanted += [Requirement(line) for lines in project["optional-dependencies"].values() for line in lines]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60]]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    unmet = [
        str(r)
        for r in wanted
        if r.name != "fedeff" and pins.get(canonicalize_name(r.name), "") not in r.specifier
    ]
    assert unmet == []


def test_the_commands_page_lists_every_option() -> None:
    """Those of `sweep` that `simulate` has too are listed once, under `simulate`."""
    sections = re.split(r"^## `fedeff (\w+)", (ROOT / "docs" / "cli.md").read_text(), flags=re.M)
    listed = {name: _options_in(text) for name, text in zip(sections[1::2], sections[2::2], strict=True)}
    taught = _options_of(get_command(command))
    taught["sweep"] = (taught["sweep"] - taught["simulate"]) | listed["sweep"] & taught["sweep"]
    assert listed == taught


def _options_in(text: str) -> set[str]:
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `-")]
    return {option for row in rows for option in re.findall(r"`(--?[\w-]+)`", row)}


def _options_of(group: Any) -> dict[str, set[str]]:
    """By command of the first level, the options of it and its own commands."""
    found = {}
    for name, one in group.commands.items():
        nested = getattr(one, "commands", {}).values()
        parameters = [p for each in (one, *nested) for p in each.params if p.param_type_name == "option"]
        found[name] = {option for p in parameters for option in p.opts} - {"--help", "-h"}
    return found
