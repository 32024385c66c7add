"""The MLflow store: where it is, how it is made once, and one run of it. Only this file and `tracking` know MLflow.

The store is MLFLOW_TRACKING_URI, else SQLite under `.mlflow/` at the repository's root. Runs are found by their content
key (tag `facegen.key`): one that did not finish is continued, a finished one is followed by a new attempt.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegen.locking import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "facegen"
KEY, ATTEMPT, KIND, STAGE = "facegen.key", "facegen.attempt", "facegen.kind", "dvc.stage"
_ENVIRONMENT = {  # read by MLflow when it is imported or used; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
_CREATE_WAIT_S = 60.0
_BATCH = 1000  # the most metrics that MLflow takes at once
_COPY_LIMIT_BYTES = 64 * 2**20  # larger models are not copied: DVC's cache has them
_BAD_IN_NAME = re.compile(r"[^\w\-. :/]")

Point = tuple[str, float, int, int]  # name, value, time in ms, step


def tracking_uri(home: Path) -> str:
    """Return the store's URI for the repository at `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / '.mlflow' / 'mlflow.db'}"


def connect(home: Path) -> tuple[MlflowClient, str]:
    """Return a client and the experiment's id, both made if need be.

    SQLite stores are made under a lock: of several processes that make one at once all but one fail.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(home)
    local = "MLFLOW_TRACKING_URI" not in os.environ
    with ExitStack() as stack:
        if local:
            stack.enter_context(locked(home / ".mlflow" / "lock", "the MLflow store", wait_s=_CREATE_WAIT_S))
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return client, found.experiment_id
        location = (home / ".mlflow" / "artifacts").resolve().as_uri() if local else None
        try:
            return client, client.create_experiment(EXPERIMENT, artifact_location=location)
        except MlflowException:  # another host was faster
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
            return client, found.experiment_id


def find_runs(client: MlflowClient, experiment: str, key: str) -> list[Run]:
    """Return the runs with this content key, the latest attempt first."""
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1000)
    return sorted(found, key=lambda run: -int(run.data.tags.get(ATTEMPT, "1")))


def git_tags(root: Path) -> dict[str, str]:
    """Return the commit, whether tracked files differ from it, and DVC's experiment if there is one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    tags = {}
    if commit := git("rev-parse", "HEAD"):
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        tags = {"git.commit": commit, "git.dirty": str(dirty).lower(), "mlflow.source.git.commit": commit}
    for variable, tag in (("DVC_EXP_NAME", "dvc.exp"), ("DVC_EXP_BASELINE_REV", "dvc.exp.baseline")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


class StoredRun:
    """One MLflow run. Every method may raise; `tracking` decides what that means."""

    def __init__(self, home: Path, *, stage: str, key: str, kind: str, tags: Mapping[str, str]) -> None:
        """Continue the unfinished run of `key`, or start the next attempt."""
        self.client, self.experiment = connect(home)
        earlier = find_runs(self.client, self.experiment, key)
        self.resumed = bool(earlier) and earlier[0].info.status != "FINISHED"
        self.last_step: dict[str, int] = {}
        if self.resumed:
            self.id = earlier[0].info.run_id
            self.attempt = int(earlier[0].data.tags.get(ATTEMPT, "1"))
            self.client.update_run(self.id, status="RUNNING")
            # `_metric_objs` holds the point of the largest step of each metric
            self.last_step = {metric.key: metric.step for metric in earlier[0].data._metric_objs}
            return
        self.attempt = int(earlier[0].data.tags.get(ATTEMPT, "1")) + 1 if earlier else 1
        identity = {KEY: key, ATTEMPT: str(self.attempt), KIND: kind, STAGE: stage}
        identity["mlflow.source.name"] = f"dvc repro {stage}"
        name = f"{stage}-{key[:8]}" + (f"-{self.attempt}" if self.attempt > 1 else "")
        self.id = self.client.create_run(self.experiment, tags={**identity, **tags}, run_name=name).info.run_id

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Write parameters, sections flattened to dotted names; the same again is no fault."""
        from mlflow.entities import Param

        items = [Param(name, _text(value)) for name, value in _leaves(values, "")]
        for start in range(0, len(items), 100):
            self.client.log_batch(self.id, params=items[start : start + 100])

    def inputs(self, digests: Mapping[str, str]) -> None:
        """Write data set inputs by path and DVC digest (at most 36 characters, which a folder's digest has)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if self.resumed or not digests:
            return
        datasets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="dvc", source=json.dumps({"path": path, "md5": md5})),
                [InputTag("mlflow.data.context", "input")],
            )
            for path, md5 in digests.items()
        ]
        self.client.log_inputs(self.id, datasets)

    def points(self, points: Iterable[Point]) -> None:
        """Write metric points, less those that the run had before it was continued."""
        from mlflow.entities import Metric

        new = [
            Metric(metric_name(name), value, time_ms, step)
            for name, value, time_ms, step in points
            if step > self.last_step.get(metric_name(name), -1)
        ]
        for start in range(0, len(new), _BATCH):
            self.client.log_batch(self.id, metrics=new[start : start + _BATCH])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(metric_name(name), value) for name, value in tags.items()])

    def file(self, path: Path, folder: str) -> None:
        """Copy a file into the run's artifacts."""
        self.client.log_artifact(self.id, str(path), folder)

    def model(self, folder: Path, path: str) -> None:
        """Copy a small model folder into the run; of a large one note where it is. The digest is its manifest's."""
        from mlflow import create_external_model, set_tracking_uri

        from facegen.artifacts import MANIFEST, sha256_file

        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        tags = {"model.path": path, "model.bytes": str(size)}
        if (folder / MANIFEST).is_file():
            tags["model.manifest_sha256"] = sha256_file(folder / MANIFEST)
        self.tags(tags)
        if size <= _COPY_LIMIT_BYTES:
            self.client.log_artifacts(self.id, str(folder), "model")
        else:
            set_tracking_uri(self.client.tracking_uri)
            create_external_model(
                name=folder.name,
                source_run_id=self.id,
                tags=tags,
                model_type="diffusers",
                experiment_id=self.experiment,
            )

    def end(self, state: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.id, status=state)


def metric_name(name: str) -> str:
    """Return a name that MLflow accepts: letters, digits and _ - . space : /, and `@` of an address as `:`."""
    return _BAD_IN_NAME.sub("_", name.replace("@", ":"))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
