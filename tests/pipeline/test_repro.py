"""`make repro`: what it says of DVC's output, and that faulty parameters start no stage."""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from pipelines.repro import Progress, summary

OUTPUT = """\
Running stage 'render':
> python -m pipelines.render
a line of the stage itself
Generating lock file 'dvc.lock'
Updating lock file 'dvc.lock'

Stage 'preprocess' didn't change, skipping
Stage 'judge@a' is cached - skipping run, checking out outputs
Running stage 'dit':
> python -m pipelines.dit

To track the changes with git, run:

\tgit add dvc.lock

Use `dvc push` to send your updates to remote storage.
"""


def read(output: str) -> tuple[Progress, list[str]]:
    """Each line comes one second after the one before."""
    progress, shown = Progress(total=4), []
    for second, line in enumerate(output.splitlines()):
        said = progress.read(line, float(second))
        if said is not None:
            shown.append(said)
    return progress, shown


def test_states_are_read_from_dvcs_output() -> None:
    progress, shown = read(OUTPUT)
    assert progress.states == {"render": "ran", "preprocess": "skipped", "judge@a": "restored", "dit": "ran"}
    assert shown == [
        "[1/4] render runs",
        "a line of the stage itself",
        "[2/4] preprocess is up to date",
        "[3/4] judge@a is taken from the cache",
        "[4/4] dit runs",
    ]


def test_seconds_belong_to_the_stage_that_ran() -> None:
    progress, _ = read(OUTPUT)
    assert progress.seconds == {"render": 6.0}
    progress.end_stage(20.0)
    assert progress.seconds == {"render": 6.0, "dit": 12.0}


def test_the_summary_shows_seconds_shares_and_the_stage_that_failed() -> None:
    progress, _ = read(OUTPUT)
    progress.end_stage(20.0)
    progress.states["dit"] = "failed"
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(summary(progress.states, progress.seconds, wall=21.5))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["dit", "failed", "12.0", "66.7%"] in rows
    assert ["render", "ran", "6.0", "33.3%"] in rows
    assert ["all", "18.0"] in rows
    assert ["by", "the", "clock", "21.5"] in rows


def test_faulty_parameters_start_no_stage(root: Path, tmp_path: Path) -> None:
    text = (root / "params.yaml").read_text().replace("  depth: 6", "  depth: true").replace("  seed: 0", "  seed: 0.5")
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "dvc.yaml").write_text("stages:\n  render:\n    cmd: touch ran\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.repro"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "2 faults" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_real_dvc_is_run_and_its_exit_code_returned(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  good:\n    cmd: echo hello\n    outs: []\n  bad:\n    cmd: python -c 'raise SystemExit(3)'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True, env=environment)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.repro"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode not in (0, 2)
    assert "[1/2]" in done.stderr
    assert "hello" in done.stderr
    assert "failed" in done.stderr
