"""A toy project run by the real harness, in a folder of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SHELL": "/bin/sh",
    "OMP_NUM_THREADS": "1",
}
TOY_DAG = """
stages:
  upstream:
    cmd: python -m pipelines.upstream
    outs: [data/upstream]
  toy:
    cmd: python -m pipelines.toy
    deps: [data/upstream, pipelines/toy.py]
    params: [base.seed, dit.depth]
    outs: [data/toy]
"""
# What the toy stage does is said by the variable TOY.
TOY_STAGE = """
import os, sys, time
from pathlib import Path
from pipelines.stage import Stage, main
from facegen.errors import NonFiniteError

def sleep(stage, watch):
    (stage.scratch / "started").write_text(str(os.getpid()))
    for _ in range(600):
        if watch and watch.is_set():
            time.sleep(2)  # saving takes a while
            (stage.scratch / "saved").write_text("state")
            return
        time.sleep(0.1)

def run(stage: Stage) -> None:
    what = os.environ["TOY"]
    with stage.output("data/toy") as folder:
        (folder / "half").write_text("half")
        (stage.scratch / "checkpoint").write_text("x")
        (stage.scratch / "log.jsonl").write_text("{}")
        if what == "mistake":
            raise ValueError("the picture is upside down")
        if what == "not finite":
            raise NonFiniteError("loss is NaN")
        if what == "bug":
            raise KeyError("oops")
        if what == "read only":
            Path("/proc/no/such").mkdir(parents=True)
        if what == "sleep":
            sleep(stage, None)
        if what == "watch":
            sleep(stage, stage.stop)
        if what == "workers":
            import multiprocessing
            workers = [multiprocessing.get_context(c).Process(target=time.sleep, args=(60,)) for c in ("fork", "spawn")]
            for worker in workers:
                worker.start()
            (stage.scratch / "workers").write_text(" ".join(str(worker.pid) for worker in workers))
            time.sleep(2)  # for the spawned one to be there
            sleep(stage, None)
        (folder / "whole").write_text(f"{stage.name} {stage.params.dit.depth}")
    print(stage.key)

if __name__ == "__main__":
    main(run)
"""


class Toy:
    """The toy project; its MLflow cannot be imported, so that no test of the harness waits for it."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        (folder / "pipelines").mkdir()
        (folder / "pipelines/toy.py").write_text(TOY_STAGE)
        (folder / "dvc.yaml").write_text(TOY_DAG)
        (folder / "mlflow.py").write_text("raise ImportError('MLflow is broken here')\n")
        (folder / "data/upstream").mkdir(parents=True)
        (folder / "data/upstream/a.txt").write_text("a")
        # the default values, but for those that a test speaks of
        params = re.sub(r"(\ndit:.*?\n  depth: )\d+", r"\g<1>8", (root / "params.yaml").read_text(), flags=re.DOTALL)
        (folder / "params.yaml").write_text(re.sub(r"\n  threads: \d+", "\n  threads: 2", params))

    def start(self, what: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment(what) | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, what: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(what, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(self.command, process.returncode, out, err)

    command = (sys.executable, "-m", "pipelines.toy")

    def environment(self, what: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "RANK", "FACEGEN"))}
        return {**kept, **QUIET, "TOY": what, "PYTHONPATH": str(self.root)}

    def scratch_file(self, name: str) -> Path | None:
        return next(self.folder.glob(f".runs/toy/*/{name}"), None)

    @property
    def timings(self) -> list[dict]:
        path = self.folder / ".runs/timings.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def toy(tmp_path: Path, root: Path) -> Toy:
    return Toy(tmp_path, root)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Wait until something is true; fail after `timeout_s`."""
    import time

    def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not true within {timeout_s} s"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def alive() -> Callable[[int], bool]:
    """Whether a process runs (a zombie does not)."""

    def check(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return check


class Project:
    """A copy of this repository with the tiny profile, and its `dvc repro`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "PREFECT_", "FACEGEN"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**kept, **QUIET, "PATH": path}
        self.dvc = [sys.executable, "-m", "dvc"]

    def copy_sources(self, root: Path) -> None:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if name.startswith(("tests/", "docs/")) or not (root / name).is_file():
                continue
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, self.folder / name)
        for result in ("dvc.lock", "eval"):  # the checkout's own results
            path = self.folder / result
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        # else DVC shares a folder of the whole machine
        (self.folder / ".dvc/config.local").write_text(f"[core]\n    site_cache_dir = {self.folder}/.dvc/tmp/site\n")
        self.call([sys.executable, "-m", "facegen.cli", "profile", "apply", "tiny"])
        for arguments in (["init", "-q", "."], ["add", "-A"], ["commit", "-q", "-m", "start"]):
            self.git(*arguments)

    def call(self, command: list[str], *, code: int | None = 0, timeout_s: float = 900) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert code is None or done.returncode == code, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        return self.call(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments])

    def repro(self, *arguments: str, code: int | None = 0) -> list[str]:
        """Run `dvc repro` and return the stages that executed, sorted."""
        return self.executed(lambda: self.call([*self.dvc, "repro", *arguments], code=code))

    def executed(self, action: Callable[[], object]) -> list[str]:
        before = len(self.timings())
        action()
        return sorted(timing["stage"] for timing in self.timings()[before:])

    def timings(self) -> list[dict]:
        path = self.folder / ".runs/timings.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def set(self, *settings: str) -> None:
        self.call([sys.executable, "-m", "facegen.cli", "config", "set", *settings])

    def runs(self) -> list:
        """All MLflow runs."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            from facegen.mlflow_store import connect

            client, experiment = connect(self.folder)
            return list(client.search_runs([experiment], max_results=1000))

    def processes(self) -> list[int]:
        """The processes that work in this folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(self.folder):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture(scope="session")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project after one cold `dvc repro`; made once, also for several test processes."""
    from facegen.locking import locked

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "built"
    with locked(shared / "built.lock", "the cold run", wait_s=900):
        if not (shared / "built.done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir()
            project = Project(folder)
            project.copy_sources(root)
            project.repro()
            (shared / "built.done").touch()
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """A copy of the built project."""
    folder = tmp_path / "project"
    shutil.copytree(built, folder, symlinks=True)
    config = folder / ".dvc/config.local"
    config.write_text(config.read_text().replace(str(built), str(folder)))
    return Project(folder)


@pytest.fixture
def new_project(root: Path, tmp_path: Path) -> Project:
    """A project in which nothing has run."""
    (tmp_path / "new").mkdir()
    project = Project(tmp_path / "new")
    project.copy_sources(root)
    return project
