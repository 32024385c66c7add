"""The real DAG, tiny: what reruns after which change, which MLflow runs that makes, and a kill that leaves no trace."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from facegen import dag

pytestmark = pytest.mark.slow

AFTER_SAMPLE = ["dit_mapper", "edit", "record", "report", "sample", "score"]


def test_a_cold_run_leaves_results_runs_and_a_clean_tree(project: Any) -> None:
    stages = dag.load_dag(project.folder)
    timings = project.timings()
    assert sorted(t["stage"] for t in timings) == sorted(stages)
    assert {t["state"] for t in timings} == {"FINISHED"}
    changed = {line[3:] for line in project.git("status", "--porcelain", "-uall").splitlines()}
    results = {"metrics.json", "msid.json", "preprocess.json", "run.json", "verification.json"}
    assert changed == {"dvc.lock", *(f"eval/{name}" for name in results)}
    # one run a stage, of the key that dvc.lock gives, tied together by the pipeline's
    lock, runs = dag.read_lock(project.folder), project.runs()
    keys = {address: dag.key_from_lock(address, entry) for address, entry in lock.items()}
    assert sorted(run.data.tags["facegen.key"] for run in runs) == sorted(keys.values())
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_stage = {run.data.tags["dvc.stage"]: run for run in runs}
    pipeline = by_stage["record"]
    assert pipeline.data.tags["facegen.kind"] == "pipeline"
    for address in set(stages) - {"record"}:
        assert pipeline.data.tags[f"stage.{address}".replace("@", ":")] == by_stage[address].info.run_id
    assert pipeline.data.params["dit.hidden_size"] == "32"
    assert pipeline.data.params["autoencoder.channels"] == "[16, 32, 32]"
    assert "metrics.dit.frechet.value" in pipeline.data.metrics
    assert "data/procedural" in {given.dataset.name for given in pipeline.inputs.dataset_inputs}
    dit = by_stage["dit"]
    assert {"loss", "grad_norm", "images_per_s", "system/cpu_utilization_percentage"} <= set(dit.data.metrics)
    assert {"git.commit", "git.dirty", "model.manifest_sha256"} <= set(dit.data.tags)
    run_json = json.loads((project.folder / "eval/run.json").read_text())
    assert run_json["stages"] == {address: key for address, key in keys.items() if address != "record"}
    assert run_json["key"] == keys["record"]
    assert pipeline.data.tags["dvc.lock_sha256"] == run_json["lock_sha256"]


def test_14_people_drawn_in_one_stage_and_in_two_are_told_apart_by_their_figures(project: Any) -> None:
    """Toy people: what two stages gain is not assumed, only that both are drawn and measured alike, and differ."""
    found = json.loads((project.folder / "eval/metrics.json").read_text())["identities"]
    one, two = found["one_stage"], found["adaptive_injection"]
    for name in ("consistency", "diversity"):
        assert 0 <= one[name]["value"] <= 2 and 0 <= two[name]["value"] <= 2
        assert one[name] != two[name]
        assert found["difference"][name]["value"] == pytest.approx(two[name]["value"] - one[name]["value"], abs=1e-6)
    assert two["evaluations"] < one["evaluations"] == 2 * 6  # of identities.num_steps


def test_given_people_are_drawn_and_measured_by_every_method(project: Any) -> None:
    """Toy networks: that one method is better is not assumed, only that all were drawn and judged on the same requests."""
    found = json.loads((project.folder / "eval/metrics.json").read_text())["personalize"]
    methods = ("class_word", "single_plain", "single", "class_word_two", "naive", "mf2d_unlocalized", "mf2d")
    for method in methods:
        assert {"identity", "min_identity", "prompt", "harmonic", "detection_rate"} <= set(found[method])
        assert found[method]["identity"]["n"] == 2  # personalize.num_people
    assert set(found["difference"]) == {"single", "mf2d"}
    assert {"none", "recognizer", "dit_mapped", "dit_mapped_plain", "pairs"} <= set(found["dit"])


def test_what_reruns_after_which_change(project: Any) -> None:
    count = len(project.runs())
    began = time.monotonic()
    assert project.repro() == []
    assert time.monotonic() - began < 20
    params = project.folder / "params.yaml"
    original = params.read_text()
    params.write_text(original + "\n# a remark\n")
    project.set("machine.threads=2", "machine.workers=2")
    assert project.repro() == []
    params.write_text(original)
    project.set("sample.guidance_scale=1.5")
    assert project.repro() == AFTER_SAMPLE
    assert len(project.runs()) == count + len(AFTER_SAMPLE)
    changed = project.folder / "eval/run.json"
    new = changed.read_text()
    params.write_text(original)
    assert project.repro() == []  # restored from DVC's cache
    assert changed.read_text() != new
    assert len(project.runs()) == count + len(AFTER_SAMPLE)
    project.set("score.feature_dim=8")
    assert project.repro() == ["record", "report", "score"]
    assert project.repro("-f", "-s", "report") == ["report"]  # forced: a second attempt
    attempts = [run.data.tags["facegen.attempt"] for run in project.runs() if run.data.tags["dvc.stage"] == "report"]
    assert sorted(attempts)[-1] == "2"


def test_learning_rate_reruns_the_denoiser_and_what_follows(project: Any) -> None:
    project.set("dit.learning_rate=2.0e-3")
    assert project.repro() == sorted(["dit", "identities", "inpainter", "verify", *AFTER_SAMPLE])
    # a run of a store that was lost comes back from git
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "result")
    for path in (project.folder / ".mlflow").glob("mlflow.db*"):
        path.unlink()
    out = project.call(["facegen", "record", "--from-git", "HEAD"])
    assert "made" in out
    runs = {run.data.tags["dvc.stage"]: run for run in project.runs()}
    assert set(runs) == set(dag.load_dag(project.folder))
    assert float(runs["dit"].data.params["dit.learning_rate"]) == 2.0e-3
    assert runs["record"].data.tags["stage.dit"] == runs["dit"].info.run_id
    assert runs["record"].data.metrics["metrics.dit.frechet.value"] > 0
    project.call(["facegen", "record", "--from-git", "HEAD"])
    assert len(project.runs()) == len(runs)


def test_killed_training_ends_with_the_same_bytes(project: Any, tmp_path: Path, wait_for: Any) -> None:
    folder, whole = project.folder, tmp_path / "uninterrupted"
    project.set("dit.total_images=3072")
    assert project.repro("-s", "dit") == ["dit"]
    shutil.copytree(folder / "data/models/dit", whole)
    log = training_log(folder)
    assert len(log) == 48
    forget(folder, "dit")
    group = start_dit(project)
    wait_for(lambda: progress(folder) >= 3, timeout_s=120)
    time.sleep(random.uniform(0, 0.5))
    os.killpg(group.pid, signal.SIGKILL)  # dvc and the stage, in the middle of anything
    group.wait()
    reached = progress(folder)
    group = start_dit(project)
    wait_for(lambda: progress(folder) >= reached + 3, timeout_s=120)
    group.kill()  # dvc alone: the stage has to notice
    group.wait()
    wait_for(lambda: not project.processes(), timeout_s=10)
    assert project.timings()[-1]["state"] == "KILLED"
    assert not (folder / "data/models/dit").exists()
    assert 3 <= progress(folder) < 48
    assert project.repro("-s", "dit") == ["dit"]
    assert tree(folder / "data/models/dit") == tree(whole)  # weights, both averages, log.csv
    assert training_log(folder) == log
    runs = [run for run in project.runs() if run.data.tags["dvc.stage"] == "dit"]
    attempts = [(run.data.tags["facegen.attempt"], run.data.metrics["images"], run.info.status) for run in runs]
    assert sorted(attempts) == [
        ("1", 512.0, "FINISHED"),  # of the cold run
        ("1", 3072.0, "FINISHED"),
        ("2", 3072.0, "FINISHED"),  # both kills went on in one run
    ]


def forget(folder: Path, address: str) -> None:
    """Have DVC forget that a stage ever ran."""
    from ruamel.yaml import YAML

    yaml, path = YAML(), folder / "dvc.lock"
    lock = yaml.load(path.read_text())
    del lock["stages"][address]
    with path.open("w") as file:
        yaml.dump(lock, file)
    shutil.rmtree(folder / ".dvc/cache/runs")
    shutil.rmtree(folder / "data/models/dit")


def start_dit(project: Any) -> subprocess.Popen[bytes]:
    command = [*project.dvc, "repro", "-s", "dit"]
    environment = project.environment | {"FACEGEN_TRACEBACK": "1"}
    return subprocess.Popen(
        command, cwd=project.folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def progress(folder: Path) -> int:
    """The lines of the log of a training that has left a checkpoint."""
    scratch = newest(folder)
    if not any(scratch.glob("*.safetensors")):
        return 0
    return len((scratch / "log.jsonl").read_text().splitlines())


def newest(folder: Path) -> Path:
    """The scratch folder of the setting that was run last."""
    key = [json.loads(line) for line in (folder / ".runs/timings.jsonl").read_text().splitlines()][-1]["key"]
    return folder / ".runs/dit" / key


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training_log(folder: Path) -> list[dict[str, Any]]:
    log = newest(folder) / "log.jsonl"
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in log.read_text().splitlines()]


def test_a_failed_stage_leaves_no_data_to_git_and_nothing_half_done(new_project: Any) -> None:
    new_project.set("preprocess.max_megapixels=0.0001")
    new_project.repro("preprocess", code=255)
    status = new_project.git("status", "--porcelain", "-uall")
    assert "data/" not in status
    assert not (new_project.folder / "data/faces").exists()
    assert list((new_project.folder / "data").glob(".*.partial*")) == []
