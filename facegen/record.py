"""The pipeline's own MLflow run: what it was made from, how it scored, and the runs of its stages.

A stage that DVC restored from its cache belongs to an older pipeline run as well, so the runs are tied by tag
(`stage.<address>` = run id), not by parent. eval/run.json holds content keys instead of run ids: equal inputs give
equal bytes, and a key finds its runs (tag `facegen.key`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegen import dag
from facegen.mlflow_store import StoredRun, connect, find_runs
from facegen.tracking import Tracker, flat_numbers, ingest

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECORD = "record"
RESULTS = ("eval/metrics.json", "eval/preprocess.json")  # their numbers are the pipeline's final figures
LOCK_TAG = "dvc.lock_sha256"


def pipeline_facts(stages: Mapping[str, dag.StageSpec], lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return what eval/run.json says: the content key of every stage before `record`, and the digest of their entries.

    Stages after `record` or beside it do not count, nor do entries of matrix items that dvc.yaml no longer has.

    Raises:
        ValueError: naming the stages that dvc.lock lacks.
    """
    before = dag.ancestors(stages, RECORD)
    if missing := sorted(before - set(lock)):
        raise ValueError(
            f"dvc.lock has no entry for {', '.join(missing)}; run `dvc repro` rather than this stage alone"
        )
    keys = {address: dag.key_from_lock(address, lock[address]) for address in sorted(before)}
    return {"stages": keys, "lock_sha256": dag.lock_digest(lock, before)}


def source_inputs(stages: Mapping[str, dag.StageSpec], lock: Mapping[str, Any]) -> dict[str, str]:
    """Return DVC's digests of all data that the pipeline read or made on the way, by path."""
    before = dag.ancestors(stages, RECORD)
    return {
        dep["path"]: dep["md5"]
        for address in sorted(before)
        for dep in lock[address].get("deps", [])
        if dep["path"] in stages[address].data_deps
    }


def write_pipeline_run(tracker: Tracker, home: Path, root: Path, facts: Mapping[str, Any]) -> list[str]:
    """Give the pipeline's run its tags, inputs, figures and pictures; return the stages whose runs were not found."""
    stages, lock = dag.load_dag(root), dag.read_lock(root)
    links: dict[str, str] = {}
    if tracker.run_id is not None:
        try:
            ingest(home)
            links = stage_links(*connect(home), facts["stages"])
        except Exception as error:  # whatever the store raises: results stand in eval/, with or without it
            sys.stderr.write(f"warning: MLflow could not be searched ({error})\n")
    tracker.tags({"facegen.kind": "pipeline", LOCK_TAG: facts["lock_sha256"]})
    tracker.tags({f"stage.{address}": run_id for address, run_id in links.items()})
    tracker.inputs(source_inputs(stages, lock))
    for path in map(Path, RESULTS):
        tracker.metrics({path.stem: json.loads((root / path).read_text("utf-8"))})
        tracker.file(root / path)
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "eval/report.html"):
        tracker.file(root / name)
    for picture in sorted((root / "eval").glob("*/*.png")):
        tracker.picture(picture)
    return sorted(set(facts["stages"]) - set(links))


def stage_links(client: MlflowClient, experiment: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the id of the latest finished run of each stage's key; a stage without one is left out."""
    links = {}
    for address, key in keys.items():
        finished = [run for run in find_runs(client, experiment, key) if run.info.status == "FINISHED"]
        if finished:
            links[address] = finished[0].info.run_id
    return links


def record_from_git(root: Path, revision: str) -> dict[str, str]:
    """Make the runs that a commit's dvc.lock speaks of and the store lacks; return `made` or `found` by stage.

    Parameters, input digests and results in git come back; curves and pictures of lost runs do not. The pipeline's run,
    found or made, is tagged with the commit (`git.commit.final`): a run starts before the commit that holds its result.

    Raises:
        ValueError: if the commit, or one of the files in it, does not exist.
    """
    commit = _git(root, "rev-parse", "--verify", f"{revision}^{{commit}}").strip()
    params = dag.read_yaml(_git(root, "show", f"{commit}:{dag.PARAMS}"))
    stages = dag.parse_dag(_git(root, "show", f"{commit}:dvc.yaml"), params)
    lock = dag.read_yaml(_git(root, "show", f"{commit}:{dag.LOCK}")).get("stages", {})
    ingest(root)
    client, experiment = connect(root)
    states = {}
    for address in sorted(set(stages) & set(lock), key=lambda a: (a == RECORD, a)):
        found = find_runs(client, experiment, dag.key_from_lock(address, lock[address]))
        states[address] = "found" if found else "made"
        run_id = found[0].info.run_id if found else _make_run(root, commit, stages[address], lock[address])
        if address == RECORD:
            facts = pipeline_facts(stages, lock)
            links = stage_links(client, experiment, facts["stages"])
            tags = {f"stage.{other}": other_id for other, other_id in links.items()}
            tags |= {"git.commit.final": commit, "facegen.kind": "pipeline", LOCK_TAG: facts["lock_sha256"]}
            for name, value in tags.items():
                client.set_tag(run_id, name.replace("@", ":"), value)
    return states


def _make_run(root: Path, commit: str, spec: dag.StageSpec, entry: Mapping[str, Any]) -> str:
    """Write the run of one entry of dvc.lock; return its id."""
    tags = {"git.commit": commit, "facegen.rebuilt": "true"}
    key = dag.key_from_lock(spec.address, entry)
    run = StoredRun(root, stage=spec.address, key=key, kind="stage", tags=tags)
    run.parameters({name: value for values in entry.get("params", {}).values() for name, value in values.items()})
    run.inputs({dep["path"]: dep["md5"] for dep in entry.get("deps", []) if dep["path"] in spec.data_deps})
    for path in RESULTS if spec.address == RECORD else [out for out in spec.outs if out in RESULTS]:
        try:
            figures = {Path(path).stem: json.loads(_git(root, "show", f"{commit}:{path}"))}
        except ValueError:  # the commit does not hold it
            continue
        run.points((name, value, 0, 0) for name, value in flat_numbers(figures).items())
    run.end("FINISHED")
    return run.id


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"git {' '.join(arguments)}: {lines[-1]}; name a commit that holds dvc.yaml and dvc.lock")
    return done.stdout
