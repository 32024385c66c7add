"""`make repro`: what has to run, by `dvc repro`, machine.jobs stages side by side, and what each took at the end.

With arguments, or machine.jobs of 1, it is plain `dvc repro` with them. What runs is DVC's decision alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from facegen.config import load_params
from facegen.dag import load_dag
from pipelines.side_by_side import run_side_by_side

USER_ERROR = 2
STATE = re.compile(
    r"^(?:(?P<ran>Running stage )|Stage )'(?P<stage>[^']+)'"
    r"(?:(?P<skipped> didn't change)|(?P<restored> is cached))?"
)
CHATTER = ("> ", "Updating lock file", "Generating lock file", "To track the changes", "\tgit add", "Use `dvc push`")


@dataclass
class Progress:
    """What DVC has said so far: the state and the seconds of each stage, in the order of its saying."""

    total: int
    states: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    running: str | None = None
    began: float = 0.0

    def read(self, line: str, now: float) -> str | None:
        """Take in one line of DVC's output at a time in seconds; returns what to show of it, None for nothing."""
        match = STATE.match(line)
        if match is None:
            return None if not line.strip() or line.startswith(CHATTER) else line
        kind = next((name for name in ("ran", "skipped", "restored") if match[name]), None)
        if kind is None:
            return line
        self.end_stage(now)
        stage = match["stage"]
        self.states[stage] = kind
        if kind == "ran":
            self.running, self.began = stage, now
        said = {"ran": "runs", "skipped": "is up to date", "restored": "is taken from the cache"}[kind]
        return f"[{len(self.states)}/{self.total}] {stage} {said}"

    def end_stage(self, now: float) -> None:
        """The running stage, if there is one, ended at this time."""
        if self.running is not None:
            self.seconds[self.running] = now - self.began
            self.running = None


def summary(states: Mapping[str, str], seconds: Mapping[str, float], *, wall: float) -> Table:
    """Table of the stages: what was done, the seconds of each, its share of them all, and the time by the clock."""
    table = Table("stage", "what", "seconds", "share", box=None, header_style="bold")
    table.columns[2].justify = table.columns[3].justify = "right"
    total = sum(seconds.values())
    for stage, state in states.items():
        took = seconds.get(stage)
        shares = ("", "") if took is None else (f"{took:.1f}", f"{took / max(total, 1e-9):.1%}")
        table.add_row(stage, state, *shares)
    table.add_row("all", "", f"{total:.1f}", "", style="bold")
    table.add_row("by the clock", "", f"{wall:.1f}", "", style="bold")
    return table


def main(arguments: list[str]) -> int:
    """Run `dvc repro` and return its exit code, or 2 if params.yaml has a fault."""
    console = Console(stderr=True, highlight=False)
    try:
        params = load_params()
        progress = Progress(total=len(load_dag(Path.cwd())))
    except (ValueError, FileNotFoundError) as error:
        print(f"facegen: {error}", file=sys.stderr)  # noqa: T201
        return USER_ERROR
    # Stages are `python -m pipelines.NAME`: this very Python, also where no environment is active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    if params.machine.jobs > 1 and not arguments:
        return in_parallel(params.machine.jobs, environment, console)
    return one_by_one(arguments, progress, environment, console)


def in_parallel(jobs: int, environment: dict[str, str], console: Console) -> int:
    """Run stages side by side, and print what each took."""
    started = time.monotonic()
    try:
        run = run_side_by_side(Path.cwd(), jobs=jobs, environment=environment, console=console)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    console.print(summary(run.states, run.seconds, wall=time.monotonic() - started))
    return run.code


def one_by_one(arguments: list[str], progress: Progress, environment: dict[str, str], console: Console) -> int:
    """Run plain `dvc repro` with these arguments."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    started = time.monotonic()
    dvc = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", env=environment)
    signal.signal(signal.SIGTERM, lambda *_: dvc.terminate())
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to DVC and its stage too; they end first
    assert dvc.stdout is not None
    for line in dvc.stdout:
        shown = progress.read(line.rstrip("\n"), time.monotonic())
        if shown is not None:
            console.print(escape(shown), style="bold" if STATE.match(line) else None)
    code = dvc.wait()
    progress.end_stage(time.monotonic())
    if code and (last := next((s for s in reversed(progress.states) if progress.states[s] == "ran"), None)):
        progress.states[last] = "failed"
    if progress.states:
        console.print(summary(progress.states, progress.seconds, wall=time.monotonic() - started))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
