"""What a wheel and an sdist hold, and that the wheel works where there is no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", ".venv*", "runs", "site", "dist", "build", ".*_cache", "__pycache__", "node_modules")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, built from a copy of the clone without the network."""
    clone = tmp_path_factory.mktemp("clone") / "fedeff"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(out)]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    return out


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "fedeff").rglob("*") if p.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert {name.split("/")[0] for name in names} == {"fedeff", "fedeff-0.1.0.dist-info"}
    assert {name for name in names if name.startswith("fedeff/")} == package


def test_the_sdist_leaves_the_signposts_out(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    first = {member.name.split("/")[1] for member in members if "/" in member.name}
    assert {"fedeff", "tests", "examples", "docs", "pyproject.toml", "LICENSE"} <= first
    assert first.isdisjoint({"strategies", "codes", "clients", "runs", ".venv"})
    assert not any(member.issym() for member in members)


@pytest.mark.slow
def test_the_wheel_alone_simulates(built: Path, tmp_path: Path) -> None:
    """In an empty environment outside the clone.

    Only fedeff is installed there. What it depends on is lent by a path file that names this
    environment's packages: Python does not follow path files found there, so that an editable
    install of the clone is not lent with them.
    """
    (wheel,) = built.glob("*.whl")
    home = tmp_path / "empty"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([str(python), *install], check=True, cwd=tmp_path)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = [str(python), "-c", "import fedeff; print(fedeff.__file__)"]
    found = subprocess.run(where, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(home)

    settings = "dataset=digits model=mlp cohort=5 num-server-rounds=2"
    command = [str(home / "bin" / "fedeff"), "simulate", "--clients", "20", "-c", settings, "--name", "wheel"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Path(tmp_path, done.stdout.splitlines()[-1])
    assert report.is_file()
    assert report.suffix == ".html"
