"""What this machine has, what is missing, and how to get it (`facegen doctor`).

The needed packages and their ranges are read from the installed package's own metadata, so pyproject.toml stays their
only home.
"""

import contextlib
import importlib
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from facegen.config import Params, load_params
from facegen.config_rules import PROCEDURAL_ROOT

GIB = 2**30
NEEDED_DISK_GIB = 5  # outputs, cache and runs of the embedded default
NEEDED_MEMORY_GIB = 4


class State(StrEnum):
    """Only MISSING makes the doctor fail."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table."""

    group: str
    name: str
    state: State
    found: str
    remedy: str = ""


def examine(root: Path, params_path: Path) -> Iterator[Check]:
    """All checks, one after the other; torch and torchvision are imported on the way."""
    yield _python()
    yield from _packages()
    yield from _extras()
    yield from _torch()
    yield from _machine(root)
    params = None
    try:
        params = load_params(params_path)
        yield Check("project", str(params_path), State.OK, "no fault")
    except (ValueError, FileNotFoundError) as error:
        yield Check("project", str(params_path), State.MISSING, str(error).splitlines()[0], "facegen config check")
    yield from _tools(root)
    if params is not None:
        yield from data_checks(root, params)
    yield from _models(root)


def _python() -> Check:
    needed = SpecifierSet(metadata.metadata("facegen")["Requires-Python"])
    state = State.OK if platform.python_version() in needed else State.MISSING
    found = f"{platform.python_version()} at {sys.executable}"
    return Check(
        "python", f"python {needed}", state, found, "" if state is State.OK else "PYTHON=python3.11 make repro"
    )


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("facegen") or []]


def _packages() -> Iterator[Check]:
    for needed in _requirements():
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield package_check(needed)


def package_check(needed: Requirement) -> Check:
    """Whether one requirement is met by what is installed."""
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return Check("packages", needed.name, State.MISSING, "not installed", f'pip install "{needed}"')
    if needed.specifier.contains(version, prereleases=True):
        return Check("packages", needed.name, State.OK, version)
    return Check(
        "packages",
        needed.name,
        State.MISSING,
        f"{version}, needed {needed.specifier}",
        "make repro, or " + f'pip install "{needed}"',
    )


def _extras() -> Iterator[Check]:
    for extra in metadata.metadata("facegen").get_all("Provides-Extra") or []:
        members = [r for r in _requirements() if r.marker and r.marker.evaluate({"extra": extra})]
        members = [r for r in members if not r.marker.evaluate({"extra": ""}) and r.name != "facegen"]  # type: ignore[union-attr]
        absent = [r.name for r in members if package_check(r).state is not State.OK]
        if absent:
            yield Check("extras", extra, State.NOTE, f"without {', '.join(absent)}", f'pip install -e ".[{extra}]"')
        else:
            yield Check("extras", extra, State.OK, ", ".join(r.name for r in members))


def _torch() -> Iterator[Check]:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken install fails in many ways
        yield Check("device", "torch", State.MISSING, _first_line(error), "pip install -r requirements.lock")
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        pair = f"torch {metadata.version('torch')} needs its own torchvision: pip install -r requirements.lock"
        yield Check("device", "torchvision", State.MISSING, _first_line(error), pair)
    if not torch.cuda.is_available():
        yield Check("device", "gpu", State.NOTE, "none; everything runs on the CPU", "the celeba profile wants one")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        yield Check("device", f"cuda:{index}", State.OK, f"{device.name}, {device.total_memory / GIB:.0f} GiB")


def _machine(root: Path) -> Iterator[Check]:
    yield Check("machine", "cpu", State.OK, f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}")
    with contextlib.suppress(ImportError):
        memory = importlib.import_module("psutil").virtual_memory()
        state = State.OK if memory.available >= NEEDED_MEMORY_GIB * GIB else State.NOTE
        found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
        yield Check(
            "machine", "memory", state, found, "" if state is State.OK else f"{NEEDED_MEMORY_GIB} GiB are wanted"
        )
    disk = shutil.disk_usage(root)
    state = State.OK if disk.free >= NEEDED_DISK_GIB * GIB else State.MISSING
    remedy = "" if state is State.OK else f"{NEEDED_DISK_GIB} GiB are wanted; `dvc gc -w` frees old results"
    yield Check("machine", "disk", state, f"{disk.free / GIB:.1f} GiB free", remedy)


def _tools(root: Path) -> Iterator[Check]:
    git = shutil.which("git")
    inside = (
        git
        and subprocess.run([git, "rev-parse", "--git-dir"], cwd=root, capture_output=True, check=False).returncode == 0
    )
    yield Check(
        "project",
        "git",
        State.OK if inside else State.MISSING,
        "a checkout" if inside else "not a checkout",
        "" if inside else "git clone the project: DVC works in a git checkout",
    )
    if not (root / ".dvc").is_dir() or not (root / "dvc.yaml").is_file():
        yield Check(
            "project", "dvc", State.MISSING, "no .dvc or dvc.yaml here", "run this from the checkout of facegen"
        )
    elif not (root / "dvc.lock").is_file():
        yield Check("project", "dvc", State.NOTE, "no stage has run", "make repro")
    else:
        yield Check("project", "dvc", State.OK, "dvc.lock is there; `dvc status` says what would run")
    yield _mlflow(root)
    server = os.environ.get("PREFECT_API_URL")
    yield Check(
        "project", "prefect", State.OK, f"server {server}" if server else "no server named: make flow starts its own"
    )


def _mlflow(root: Path) -> Check:
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return Check("project", "mlflow", State.OK, f"store {uri}")
    store = root / ".mlflow" / "mlflow.db"
    if not store.is_file():
        return Check("project", "mlflow", State.NOTE, "no runs yet", "make repro, then make mlflow")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        remedy = "move it aside; facegen record --from-git rebuilds the runs"
        return Check("project", "mlflow", State.NOTE, f"{store}: {error}", remedy)
    return Check("project", "mlflow", State.OK, f"{count} runs in {store.relative_to(root)}")


def data_checks(root: Path, params: Params) -> Iterator[Check]:
    """What is there of a data set in CelebA's layout."""
    folder = root / params.data.root
    if params.data.root.rstrip("/") == PROCEDURAL_ROOT:
        state, found = (State.OK, "drawn") if folder.is_dir() else (State.NOTE, "not drawn yet")
        yield Check("data", "data.root", state, f"{params.data.root}: {found}", "" if folder.is_dir() else "make repro")
        return
    if not folder.is_dir():
        yield Check("data", "data.root", State.MISSING, f"{params.data.root}: no such folder", "docs/data.md")
        return
    try:
        from facegen.data import celeba
        from facegen.data.people import is_folder_per_person
    except ImportError as error:  # said above, among the packages
        yield Check("data", "lists", State.NOTE, f"not looked at: {_first_line(error)}")
        return
    if is_folder_per_person(folder):
        people = sum(path.is_dir() for path in folder.iterdir())
        yield Check("data", "people", State.OK, f"a folder for each of {people}, without attributes")
        return
    needed = {
        "pictures": (f"{celeba.PICTURES}.zip", celeba.PICTURES),
        "attributes": (f"{celeba.ATTRIBUTES}.txt", f"{celeba.ATTRIBUTES}.csv"),
    }
    for name, choices in needed.items():
        there = [choice for choice in choices if (folder / choice).exists()]
        state = State.OK if there else State.MISSING
        found = ", ".join(there) or f"neither of {', '.join(choices)} in {params.data.root}"
        yield Check("data", name, state, found, "" if there else "docs/data.md")
    without = {
        celeba.IDENTITIES: "none: nothing that needs identities can be trained",
        celeba.LANDMARKS: "none: canonical positions",
        celeba.PARTITION: "none: a seeded split",
    }
    for stem, consequence in without.items():
        there = [path.name for path in sorted(folder.glob(f"{stem}.*"))]
        yield Check("data", stem, State.OK if there else State.NOTE, ", ".join(there) or consequence)


def _models(root: Path) -> Iterator[Check]:
    folder = root / "data" / "models"
    trained = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    yield Check(
        "data",
        "models",
        State.OK if trained else State.NOTE,
        ", ".join(trained) or "none trained",
        "" if trained else "make repro",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
