"""`make repro`: plain `dvc repro` with a line for each stage as it starts, and what each took at the end.

Arguments are handed to `dvc repro`. What runs is DVC's decision alone; this only reads its output.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from facegen.config import load_params
from facegen.dag import load_dag

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


def summary(progress: Progress, *, failed: bool) -> Table:
    """Table of the stages, with seconds and shares; with `failed`, the last one that ran is the one that failed."""
    table = Table("stage", "what", "seconds", "share", box=None, header_style="bold")
    table.columns[2].justify = table.columns[3].justify = "right"
    total = sum(progress.seconds.values())
    last = next((stage for stage in reversed(progress.states) if progress.states[stage] == "ran"), None)
    for stage, kind in progress.states.items():
        said = "failed" if failed and stage == last else kind
        seconds = progress.seconds.get(stage)
        shares = ("", "") if seconds is None else (f"{seconds:.1f}", f"{seconds / max(total, 1e-9):.1%}")
        table.add_row(stage, said, *shares)
    table.add_row("all", "", f"{total:.1f}", "", style="bold")
    return table


def main(arguments: list[str]) -> int:
    """Run `dvc repro` and return its exit code, or 2 if params.yaml has a fault."""
    console = Console(stderr=True, highlight=False)
    try:
        load_params()
        progress = Progress(total=len(load_dag(Path.cwd())))
    except (ValueError, FileNotFoundError) as error:
        print(f"facegen: {error}", file=sys.stderr)  # noqa: T201
        return USER_ERROR
    # Stages are `python -m pipelines.NAME`: this very Python, also where no environment is active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
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
    if progress.states:
        console.print(summary(progress, failed=code != 0))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
