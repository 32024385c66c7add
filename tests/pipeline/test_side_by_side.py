"""Stages side by side on a toy DAG of shell commands: order, overlap, what is left alone, and what a failure stops."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.side_by_side import LOGS, followers, last_line, run_side_by_side

DAG = """
stages:
  root: {cmd: 'echo made > root.txt', deps: [seed.txt], outs: [root.txt]}
  left: {cmd: 'SLEEP left', deps: [root.txt, left.in], outs: [left.txt]}
  right: {cmd: 'SLEEP right', deps: [root.txt, right.in], outs: [right.txt]}
  both: {cmd: 'cat left.txt right.txt > both.txt', deps: [left.txt, right.txt], outs: [both.txt]}
"""
SLEEP = "sh work.sh"
WORK = "date +%s.%N > $1.began; cat $1.in > $1.txt; sleep 2.5; date +%s.%N > $1.ended; test ! -f $1.fails\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DAG.replace("SLEEP", SLEEP))
    (tmp_path / "work.sh").write_text(WORK)
    for name in ("seed.txt", "left.in", "right.in"):
        (tmp_path / name).write_text(name)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True, env=environment())
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "DVC_NO_ANALYTICS": "1"}


def run(folder: Path, *, jobs: int = 2, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    with open(os.devnull, "w") as nowhere:
        return run_side_by_side(folder, jobs=jobs, environment=environment(), console=Console(file=nowhere))


def times(folder: Path, name: str) -> tuple[float, float]:
    return float((folder / f"{name}.began").read_text()), float((folder / f"{name}.ended").read_text())


def test_independent_stages_overlap_and_nothing_starts_too_early(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(toy, monkeypatch=monkeypatch)
    assert done.code == 0
    assert set(done.states.values()) == {"ran"}
    order = list(done.states)
    assert order[0] == "root" and order[-1] == "both" and set(done.seconds) == set(order)
    (left_began, left_ended), (right_began, right_ended) = times(toy, "left"), times(toy, "right")
    assert max(left_began, right_began) < min(left_ended, right_ended)
    assert (toy / "both.txt").read_text() == "left.inright.in"
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=toy, capture_output=True, text=True, env=environment(), check=True
    )
    assert "up to date" in status.stdout
    # again: nothing is started at all
    for log in (toy / LOGS).iterdir():
        log.unlink()
    again = run(toy, monkeypatch=monkeypatch)
    assert set(again.states.values()) == {"skipped"} and not again.seconds
    assert not list((toy / LOGS).iterdir())
    # one input: its stage and what follows, and nothing else
    (toy / "left.in").write_text("new")
    third = run(toy, monkeypatch=monkeypatch)
    assert third.states == {"root": "skipped", "right": "skipped", "left": "ran", "both": "ran"}
    assert (toy / "both.txt").read_text() == "newright.in"


def test_a_failure_stops_the_others_and_tells_its_code(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "work.sh").write_text("if [ $1 = left ]; then echo the reason; exit 3; fi; sleep 60; echo > right.txt\n")
    began = time.monotonic()
    done = run(toy, monkeypatch=monkeypatch)
    assert time.monotonic() - began < 40
    assert (done.code, done.states["left"]) == (3, "failed")
    assert "both" not in done.states and not (toy / "right.txt").exists()
    assert "the reason" in (toy / LOGS / "left.log").read_text()


def test_one_at_a_time_where_one_job_is_allowed(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(toy, jobs=1, monkeypatch=monkeypatch)
    assert done.code == 0
    (left_began, left_ended), (right_began, right_ended) = times(toy, "left"), times(toy, "right")
    assert left_ended <= right_began or right_ended <= left_began


def test_sigterm_ends_the_stages_too(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "work.sh").write_text("echo $$ > $1.pid; sleep 600\n")
    code = (
        "import os, sys; from pathlib import Path; from rich.console import Console;"
        "from pipelines.side_by_side import run_side_by_side;"
        "run_side_by_side(Path('.'), jobs=2, environment=dict(os.environ), console=Console(stderr=True))"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=toy, env=environment() | {"PYTHONPATH": str(root)})
    deadline = time.monotonic() + 60
    while not ((toy / "left.pid").exists() and (toy / "right.pid").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = [int((toy / f"{name}.pid").read_text()) for name in ("left", "right")]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_those_on_which_most_wait_come_first() -> None:
    graph = {"a": set(), "b": set(), "c": {"b"}, "d": {"c", "a"}}
    assert followers(graph, "b") == {"c", "d"} and followers(graph, "a") == {"d"} and followers(graph, "d") == set()


def test_the_last_state_of_a_progress_bar_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"line\n 1/3\r 2/3\r 3/3 [ok]\r")
    assert last_line(log) == "3/3 [ok]"
    log.write_bytes(b"")
    assert last_line(log) == ""
