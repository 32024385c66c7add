"""The harness: outputs whole or absent, one line for a mistake, one process at a time, none left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from facegen.artifacts import check_manifest


def test_success_leaves_a_whole_output_and_no_checkpoint(toy: Any) -> None:
    done = toy.run("nothing")
    assert done.returncode == 0, done.stderr
    manifest = check_manifest(toy.folder / "data/toy")
    assert set(manifest["files"]) == {"half", "whole"}
    assert manifest["parameters"] == {"base.seed": 0, "dit.depth": 8}
    assert list(manifest["inputs"]) == ["data/upstream"]
    assert toy.scratch_file("checkpoint") is None
    assert toy.scratch_file("log.jsonl") is not None
    assert [t["state"] for t in toy.timings] == ["FINISHED"]
    assert "MLflow tracking failed" in done.stderr  # it is broken in the toy project, and that is all it does


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("mistake", 1, "the picture is upside down"),
        ("not finite", 3, "loss is NaN"),
        ("read only", 1, "/proc/no"),
    ],
)
def test_a_mistake_is_one_line_and_rolls_back(toy: Any, what: Any, code: Any, message: Any) -> None:
    (toy.folder / "data/toy").mkdir()
    (toy.folder / "data/toy/old").write_text("old")
    done = toy.run(what)
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert lines[0].startswith("facegen: toy: ")
    assert [p.name for p in (toy.folder / "data").iterdir() if p.name != "upstream"] == ["toy"]
    assert (toy.folder / "data/toy/old").exists()
    assert toy.scratch_file("checkpoint") is not None
    assert toy.timings[-1]["state"] == "FAILED"
    assert message in (toy.folder / ".runs/traceback.txt").read_text()


def test_a_bug_keeps_its_traceback(toy: Any) -> None:
    done = toy.run("bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "oops" in done.stderr
    assert not (toy.folder / "data/toy").exists()


def test_no_stage_starts_with_a_faulty_parameter_or_a_missing_input(toy: Any) -> None:
    params = toy.folder / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("hidden_size:", "hiden_size:"))
    done = toy.run("nothing")
    assert done.returncode == 1
    assert "hiden_size" in done.stderr
    assert "Traceback" not in done.stderr
    assert toy.scratch_file("log.jsonl") is None
    params.write_text(good)
    (toy.folder / "data/upstream/a.txt").unlink()
    (toy.folder / "data/upstream").rmdir()
    done = toy.run("nothing")
    assert done.returncode == 1
    assert "run `dvc repro upstream` first" in done.stderr


def test_second_process_is_refused_and_a_dead_one_is_not_in_the_way(toy: Any, wait_for: Any) -> None:
    first = toy.start("sleep")
    wait_for(lambda: toy.scratch_file("started"))
    began = time.monotonic()
    second = toy.run("nothing")
    assert second.returncode == 4
    assert re.search(rf"stage toy is busy: process {first.pid} holds .*lock", second.stderr)
    assert time.monotonic() - began < 5  # a start of Python and half a second of trying
    first.kill()
    first.wait()
    assert toy.run("nothing").returncode == 0
    assert check_manifest(toy.folder / "data/toy")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_stage_with_their_code(toy: Any, wait_for: Any, number: Any, code: Any) -> None:
    process = toy.start("sleep")
    wait_for(lambda: toy.scratch_file("started"))
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in err
    assert not (toy.folder / "data/toy").exists()
    assert toy.timings[-1]["state"] == "KILLED"


def test_a_stage_that_watches_stop_saves_and_is_not_taken_for_done(toy: Any, wait_for: Any) -> None:
    process = toy.start("watch")
    wait_for(lambda: toy.scratch_file("started"))
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 143  # though its run returned, it did not finish
    assert toy.scratch_file("saved") is not None
    assert toy.scratch_file("checkpoint") is not None
    assert not (toy.folder / "data/toy").exists()


@pytest.mark.parametrize(
    "command",
    ["[sys.executable, '-m', 'pipelines.toy']", "['sh', '-c', f'{sys.executable} -m pipelines.toy; true']"],
    ids=["direct", "through a shell"],
)
def test_a_stage_ends_with_the_process_that_started_it(toy: Any, wait_for: Any, alive: Any, command: str) -> None:
    launch = f"import subprocess, sys; subprocess.run({command})"
    environment = toy.environment("workers") | {"DVC_STAGE": "toy"}
    parent = subprocess.Popen([sys.executable, "-c", launch], cwd=toy.folder, env=environment)
    wait_for(lambda: toy.scratch_file("started"))
    pids = [int(pid) for name in ("started", "workers") for pid in toy.scratch_file(name).read_text().split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, pids)), timeout_s=10)


def test_an_orphaned_stage_has_the_time_to_save(toy: Any, wait_for: Any, alive: Any) -> None:
    launch = "import subprocess, sys; subprocess.run(['sh', '-c', f'{sys.executable} -m pipelines.toy; true'])"
    environment = toy.environment("watch") | {"DVC_STAGE": "toy"}
    parent = subprocess.Popen([sys.executable, "-c", launch], cwd=toy.folder, env=environment)
    wait_for(lambda: toy.scratch_file("started"))
    parent.kill()
    parent.wait()
    wait_for(lambda: toy.scratch_file("saved"), timeout_s=12)
    wait_for(lambda: [timing["state"] for timing in toy.timings] == ["KILLED"], timeout_s=10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_stage(toy: Any, wait_for: Any, alive: Any, number: Any) -> None:
    process = toy.start("workers")
    wait_for(lambda: toy.scratch_file("started"))
    workers = [int(pid) for pid in toy.scratch_file("workers").read_text().split()]
    assert all(map(alive, workers))
    process.send_signal(number)
    process.communicate(timeout=10)
    wait_for(lambda: not any(map(alive, workers)), timeout_s=10)


def test_key_follows_what_dvc_tracks_and_nothing_else(toy: Any) -> None:
    def key() -> str:
        done = toy.run("nothing")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    params, first = toy.folder / "params.yaml", key()
    params.write_text(params.read_text().replace("threads: 2", "threads: 1") + "\n# a remark\n")
    assert key() == first
    params.write_text(re.sub(r"(dit:.*?depth: )8", r"\g<1>4", params.read_text(), flags=re.DOTALL))
    changed = key()
    assert changed != first
    (toy.folder / "data/upstream/a.txt").write_text("b")
    assert key() not in (first, changed)


def test_harness_starts_without_the_heavy_packages(root: Any) -> None:
    code = "import pipelines.stage, sys; print(sorted({'torch','mlflow','pandas','dvc','prefect'} & set(sys.modules)))"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert time.monotonic() - began < 3  # 0.2 s on an idle machine
