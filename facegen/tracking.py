"""Tracking that cannot harm what it tracks: figures go to MLflow in batches, and to a file where MLflow fails.

A store that is missing, full, locked or read-only gives one warning; from then on everything is appended to
`.runs/untracked/<stage>-<key>.jsonl`, which `ingest` writes into the store when it works again.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegen.mlflow_store import Point, StoredRun, git_tags

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

UNTRACKED = Path(".runs") / "untracked"
_FLUSH_POINTS = 500
_FLUSH_S = 10.0
_SYSTEM_INTERVAL_S = 5.0


class Tracker:
    """The MLflow run of one execution. No method raises."""

    def __init__(
        self,
        home: Path,
        *,
        stage: str,
        key: str,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str],
        kind: str = "stage",
    ) -> None:
        """Open or resume the run of `key`.

        Args:
            home: the repository's root, which holds `.mlflow/` and `.runs/`.
            stage: the stage's address.
            key: its content key.
            parameters: by dotted name.
            inputs: DVC's digest of each data dependency, by path.
            kind: `stage`, or `pipeline` for the run that links the others.
        """
        self._buffer = home / UNTRACKED / f"{stage}-{key}"
        self._points: list[Point] = []
        self._flushed = time.monotonic()
        self._run: StoredRun | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._warned = False
        opening: dict[str, Any] = {"stage": stage, "key": key, "kind": kind, "tags": git_tags(Path.cwd())}
        self._opening = opening
        try:
            self._run = StoredRun(home, **opening)
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network raise: training goes on
            self._failed(error)
            self._keep("open", opening)
        self._do("parameters", dict(parameters))
        self.inputs(inputs)
        self._watch_system()

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id; None if the store failed."""
        return self._run.id if self._run else None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Add figures of a step; written every 500 points or 10 seconds."""
        now = int(time.time() * 1000)
        self._points += [(name, float(value), now, int(step)) for name, value in metrics.items()]
        if len(self._points) >= _FLUSH_POINTS or time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """Write final figures: numbers, nested mappings flattened to dotted names, anything else left out."""
        now = int(time.time() * 1000)
        self._do("points", [(name, value, now, 0) for name, value in flat_numbers(figures).items()])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write tags."""
        self._do("tags", dict(tags))

    def inputs(self, digests: Mapping[str, str]) -> None:
        """Add data set inputs: DVC's digest by path."""
        self._do("inputs", dict(digests))

    def picture(self, path: Path) -> None:
        """Copy a picture into the run."""
        self._do("file", str(path), "pictures")

    def file(self, path: Path) -> None:
        """Copy a results file into the run."""
        self._do("file", str(path), "results")

    def model(self, folder: Path) -> None:
        """Add a model folder."""
        self._do("model", str(folder), folder.as_posix())

    def flush(self) -> None:
        """Write the buffered points."""
        points, self._points, self._flushed = self._points, [], time.monotonic()
        if points:
            self._do("points", points)

    def close(self, state: str) -> None:
        """Write what is left and end the run: FINISHED, FAILED or KILLED."""
        self.flush()
        if self._monitor:
            try:
                _finish_monitor(self._monitor)
            except Exception as error:
                self._failed(error)
        self._do("end", state)

    def _do(self, operation: str, *arguments: Any) -> None:
        if self._run:
            try:
                perform(self._run, operation, arguments)
                return
            except Exception as error:
                self._failed(error)
                self._run = None
                self._keep("open", self._opening)
        self._keep(operation, *arguments)

    def _keep(self, operation: str, *arguments: Any) -> None:
        """Append an operation to the buffer, with a copy of the file that it names."""
        try:
            self._buffer.mkdir(parents=True, exist_ok=True)
            if operation == "file":
                copied = self._buffer / Path(arguments[0]).name
                shutil.copyfile(arguments[0], copied)
                arguments = (str(copied), arguments[1])
            with (self._buffer / "operations.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps([operation, *arguments]) + "\n")
        except OSError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._warned:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            sys.stderr.write(f"warning: MLflow tracking failed ({lines[0]}); figures go to {self._buffer}\n")
        self._warned = True

    def _watch_system(self) -> None:
        if not self._run:
            return
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(
                self._run.id,
                sampling_interval=_SYSTEM_INTERVAL_S,
                resume_logging=self._run.resumed,
                tracking_uri=self._run.client.tracking_uri,
            )
            self._monitor.start()
        except Exception as error:
            self._failed(error)


def _finish_monitor(monitor: SystemMetricsMonitor) -> None:
    """Stop the monitor's thread and write one last sample, which in a short stage is the only one."""
    monitor.finish()
    monitor.collect_metrics()
    monitor.publish_metrics(monitor.aggregate_metrics())
    monitor.mlflow_logger.flush()


def perform(run: StoredRun, operation: str, arguments: tuple[Any, ...] | list[Any]) -> None:
    """Do one operation, as it is called or as it was buffered, on a run."""
    match operation:
        case "parameters" | "inputs" | "points" | "tags" | "end":
            getattr(run, operation)(*arguments)
        case "file":
            run.file(Path(arguments[0]), arguments[1])
        case "model":
            if Path(arguments[0]).is_dir():
                run.model(Path(arguments[0]), str(arguments[1]))
        case _:
            raise ValueError(f"unknown tracking operation {operation!r}")


def ingest(home: Path) -> list[str]:
    """Write buffered operations into the store and remove them; return the names of the buffers that went in."""
    done = []
    for folder in sorted((home / UNTRACKED).glob("*")):
        lines = (folder / "operations.jsonl").read_text("utf-8").splitlines()
        run: StoredRun | None = None
        for operation, *arguments in map(json.loads, lines):
            if operation == "open":
                run = StoredRun(home, **arguments[0])
            elif run:
                perform(run, operation, arguments)
        shutil.rmtree(folder)
        done.append(folder.name)
    return done


def flat_numbers(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a nested mapping by dotted name; texts, lists and nulls are left out."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat
