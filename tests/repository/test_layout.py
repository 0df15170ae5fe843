"""The house as a reader finds it: signposts, names, layers, nothing of the machine it was built on."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedeff

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fedeff"
SIGNPOSTS = ("strategies", "codes", "clients")
PUBLIC_FLOWER = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.clientapp.typing",
    "flwr.common.typing",
    "flwr.serverapp",
    "flwr.serverapp.exception",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
SOURCES = sorted(PACKAGE.rglob("*.py"))
# What flwr keeps private is touched here: of a run, and of a deployment.
SHIM = {PACKAGE / "core" / name for name in ("flower.py", "flower_deployment.py")}


def _tracked_files() -> list[Path]:
    """Files that git would ship; every file but the environment's where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", SIGNPOSTS)
def test_a_signpost_is_a_relative_link_to_the_package_of_its_name(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("fedeff", name)
    assert (link / "__init__.py").is_file()


def test_nothing_imports_through_a_signpost() -> None:
    folders = [ROOT / name for name in ("fedeff", "tests", "examples", "bench")]
    found = [
        (path.relative_to(ROOT), name)
        for folder in folders
        for path in folder.rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in SIGNPOSTS
    ]
    assert found == []


def test_an_install_claims_no_name_but_fedeff(tmp_path: Path) -> None:
    """Seen from outside the clone, where the current folder does not lend its names."""
    names = (*SIGNPOSTS, "tests", "bench", "examples")
    code = f"import importlib.util as u; print([n for n in {names} if (s := u.find_spec(n)) and s.origin])"
    assert _python("-I", "-c", code, cwd=tmp_path) == "[]"


@pytest.mark.parametrize("heavy", ["torch", "ray", "sklearn", "matplotlib"])
def test_importing_fedeff_does_not_load(heavy: str, tmp_path: Path) -> None:
    assert _python("-c", f"import fedeff, sys; print({heavy!r} in sys.modules)", cwd=tmp_path) == "False"


def test_importing_any_room_does_not_load_ray(tmp_path: Path) -> None:
    load = f"import importlib, sys; [importlib.import_module(n) for n in {_packages()}]"
    assert _python("-c", f"{load}; print('ray' in sys.modules)", cwd=tmp_path) == "False"


def _packages() -> list[str]:
    inside = pkgutil.walk_packages([str(PACKAGE)], "fedeff.")
    return ["fedeff", *(module.name for module in inside if module.ispkg)]


@pytest.mark.parametrize("name", _packages())
def test_all_is_the_public_namespace(name: str) -> None:
    """Every exported name is there, once; every public name that is no module is exported."""
    package = importlib.import_module(name)
    exported = list(getattr(package, "__all__", ()))
    assert [key for key in exported if not hasattr(package, key)] == []
    assert sorted(set(exported)) == sorted(exported)
    here = {key for key, value in vars(package).items() if not isinstance(value, ModuleType)}
    assert {key for key in here if not key.startswith("_")} - set(exported) == set()


def test_only_the_shim_touches_flowers_private_modules() -> None:
    found = [
        (str(path.relative_to(ROOT)), name)
        for path in SOURCES
        if path not in SHIM
        for name in _imports(path)
        if name.split(".")[0] == "flwr" and name not in PUBLIC_FLOWER
    ]
    assert found == []


def test_only_the_shim_touches_flowers_private_attributes() -> None:
    """Private attributes that flwr's own classes define, read on anything but `self`."""
    private = _flowers_private_attributes()
    own = {name for path in SOURCES for name in _defined_attributes(path)}
    found = [
        (str(path.relative_to(ROOT)), node.lineno, node.attr)
        for path in SOURCES
        if path not in SHIM
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in private - own
        if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]
    assert found == []


def _flowers_private_attributes() -> set[str]:
    flwr = Path(importlib.import_module("flwr").__file__ or "").parent
    folders = [flwr / name for name in ("app", "serverapp", "clientapp", "simulation", "common")]
    return {
        name
        for folder in folders
        for path in folder.rglob("*.py")
        for name in _defined_attributes(path)
        if name.startswith("_") and not name.startswith("__")
    }


def _defined_attributes(path: Path) -> set[str]:
    """Names of functions, and of attributes that are assigned on `self`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_what_fedeff_imports_it_also_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dp"], *extras["metrics"], *extras["tensorboard"]]
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()
    imported = {name.split(".")[0] for path in SOURCES for name in _imports(path)} - {"fedeff"}
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    unmet = {n for n in foreign if required.isdisjoint(map(canonicalize_name, distributions.get(n, [n])))}
    assert unmet == set()


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git clone")
def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    # Spelt so that this file does not hold what it looks for.
    pattern = re.compile(
        "|".join(["/wor" + "k/", "/roo" + "t/", "/hom" + "e/[a-z]", r"pypi\.or" + "g", r"deb\.debia" + "n"])
    )
    found = []
    for path in _tracked_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [(str(path.relative_to(ROOT)), match.group()) for match in pattern.finditer(text)]
    assert found == []


def test_the_version_is_said_once_and_alike() -> None:
    toml = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{fedeff.__version__}"' in toml
    assert f"## {fedeff.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def _python(*arguments: str, cwd: Path) -> str:
    """What a fresh interpreter prints when run in `cwd`."""
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
