"""Draw synthetic people -> eval/identities: people.parquet, images/ and people.json (the data set), ablation.parquet.

Under torchrun every process draws its share of the chunks, and rank 0 collects them. Killed and started again, the stage
goes on from the chunks in its scratch folder. Without a recogniser there are no people, and people.json says so.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from facegen.artifacts import sha256_file, write_json
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.people_set import ABLATION, PEOPLE, PeopleSet
from facegen.grids import save_png
from facegen.identities import dataset
from facegen.identities.generation import Draw, Embed, Plan, collect, generate, missing
from facegen.pipeline import FacePipeline
from pipelines.stage import Stage, main

OUT = "eval/identities"
WEIGHTS = "diffusion_pytorch_model.safetensors"
POLL_S = 0.5


def run(stage: Stage) -> None:
    """Prepare, draw the methods that are compared, then the data set; screen it and write everything."""
    p, wanted = stage.params.identities, settings_of(stage)
    models, threads = stage.root / "data/models", stage.params.machine.threads
    if not available(models / "recognizer-condition"):
        _absent(stage, "there is no recogniser: nothing says whose face a picture is")
        return
    embedder = FaceEmbedder.load(models / "recognizer-condition", threads=threads)
    real = dataset.real_people(stage.root / "data", embedder, threads=threads)
    pipe = FacePipeline.from_models(models, scheduler="euler", shift=p.time_shift).to(stage.device)
    sampler = dataset.open_sampler(pipe, wanted, dtype=stage.dtype)
    networks = {name: sha256_file(models / name / WEIGHTS) for name in ("dit", "autoencoder")}
    networks["recognizer-condition"] = embedder.sha256
    seed = stage.params.base.seed
    prepared = dataset.prepare(
        stage.scratch, sampler, wanted, seed=seed, training=real.training, model_sha256=networks["dit"],
        contexts=None if p.contexts is None else stage.root / p.contexts,
    )  # fmt: skip
    methods = dataset.ablation_settings(wanted, sampler, prepared.calibration)

    def planned(method: str, num_people: int, images_per_person: int) -> tuple[Plan, Draw]:
        return dataset.plan_of(
            prepared, sampler, method=method, settings=methods[method], num_people=num_people,
            images_per_person=images_per_person, seed=seed, batch_size=p.batch_size, states=None, networks=networks,
        )  # fmt: skip

    parts, seconds = [], {}
    for method in methods:
        plan, draw = planned(method, p.ablation_people, p.ablation_images)
        folder, started = stage.scratch / "ablation" / method, time.perf_counter()
        if drawn := draw_share(stage, plan, folder, draw, embed=None):
            seconds[method] = (time.perf_counter() - started) / drawn
        parts.append((plan, folder))
    plan, draw = planned(p.method, len(prepared.vectors), p.images_per_person)
    chunks = stage.scratch / "people"
    draw_share(stage, plan, chunks, draw, embed=lambda images: embedder.embed(images, None))
    stage.metrics({"seconds_a_picture": seconds})
    if not stage.is_main:
        return
    _wait_for_others(stage, [*parts, (plan, chunks)])
    with stage.output(OUT) as out:
        assert prepared.calibration is not None
        write_json(out / dataset.CALIBRATION, prepared.calibration.to_json())
        collect(parts, out / ABLATION, kept=np.arange(p.ablation_people), methods=True)
        dataset.write_dataset(
            out, plan, chunks, p=wanted, prepared=prepared, real=real, images=True, threads=threads,
            warn=lambda text: sys.stderr.write(f"facegen: {stage.name}: {text}\n"),
        )  # fmt: skip
        for name, picture in dataset.grids(PeopleSet.open(out / PEOPLE), PeopleSet.open(out / ABLATION)).items():
            save_png(out / f"{name}.png", picture)
    for path in sorted((stage.root / OUT).glob("*.png")):
        stage.picture(path)


def settings_of(stage: Stage) -> dataset.PeopleSettings:
    """Return what params.yaml asks for."""
    p = stage.params.identities
    return dataset.PeopleSettings(
        source=p.source, contexts=p.contexts, num_people=p.num_people, images_per_person=p.images_per_person,
        spare=p.spare, max_context_cosine=p.max_context_cosine, max_centre_cosine=p.max_centre_cosine,
        leakage_quantile=p.leakage_quantile, method=p.method, num_steps=p.num_steps, time_shift=p.time_shift,
        guidance_scale=p.guidance_scale, criterion=p.criterion, clock=p.clock, early=p.early, late=p.late, target=p.target,
        fixed_time=p.fixed_time, patience=p.patience, guide_early=p.guide_early, calibration_runs=p.calibration_runs,
        share=p.share, inject_blocks=p.inject_blocks, inject_window=p.inject_window, tempering=p.tempering,
        tempering_share=p.tempering_share, sweep=p.sweep, sweep_guidance=p.sweep_guidance, batch_size=p.batch_size,
    )  # fmt: skip


def draw_share(stage: Stage, plan: Plan, folder: Path, draw: Draw, *, embed: Embed | None) -> int:
    """Draw this process's chunks of a plan that are not there yet; returns how many pictures that made."""
    rank, processes = _place()
    bar = stage.progress(plan.share(rank, processes), plan.method)
    drawn = generate(
        plan, folder, draw, embed=embed, shard=rank, num_shards=processes, on_pictures=bar.update
    )  # fmt: skip
    bar.close()
    return drawn


def _place() -> tuple[int, int]:
    """Return which process of how many this is."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _wait_for_others(stage: Stage, parts: list[tuple[Plan, Path]]) -> None:
    while any(missing(*part) for part in parts):
        stage.raise_if_stopped()
        if _place()[1] == 1:
            raise RuntimeError("chunks are missing though this process drew all of them")
        time.sleep(POLL_S)


def _absent(stage: Stage, reason: str) -> None:
    sys.stderr.write(f"facegen: {stage.name}: no synthetic people: {reason}\n")
    if stage.is_main:
        with stage.output(OUT) as folder:
            write_json(folder / dataset.MANIFEST, {"absent": reason})


if __name__ == "__main__":
    main(run)
