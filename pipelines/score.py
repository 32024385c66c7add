"""Measure generators, edits and upscaling against real pictures -> eval/metrics.json, eval/plots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from facegen.artifacts import read_json, write_json
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.samples import PRIOR
from facegen.data.scenes import Scenes
from facegen.data.shards import Faces
from facegen.evaluation import JUDGED, Settings, evaluate
from facegen.face_detector import FaceDetector
from facegen.metrics.clip_score import ClipScore
from facegen.metrics.features import RandomProjection
from facegen.metrics.inception import InceptionFeatures
from facegen.metrics.judge_features import JudgeFeatures, load_judge_features
from facegen.models.autoencoder import Autoencoder, factor, load_autoencoder
from facegen.score_control import judge_rates
from facegen.score_dit_identity import dit_identity_figures
from facegen.score_edit_plots import write_edit_plots, write_upscaling
from facegen.score_identities import identity_figures
from facegen.score_identity_plots import write_identity_plots
from facegen.score_inputs import (
    judge_figures,
    judged,
    prior_features,
    real_sets,
    recognizer_figures,
    round_trip,
    same_person_cosine,
)
from facegen.score_personalize import personalize_figures
from facegen.score_personalize_plots import write_personalize_plots
from facegen.score_photographs import score_edits, score_upscaling
from facegen.score_plots import COLUMNS, ROWS, write_plots
from facegen.scoring import chosen_rows, common_count, count_parameters
from pipelines.stage import Stage, main

MODELS = (
    "judge-a", "judge-b", "recognizer-condition", "recognizer-judge", "autoencoder", "dit", "inpainter", "upscaler",
    "gan-conditional", "gan-unconditional", "detector", "msid", "mapper", "dit-mapper",
)  # fmt: skip
COUNTED = {"autoencoder": "autoencoder", "dit": "dit", "gan": "gan-conditional/generator"}
FOLDERS = (
    "data/faces", *(f"data/models/{name}" for name in MODELS), "eval/samples", "eval/edits", "eval/identities",
    "eval/personalize", "eval/personalize-dit",
)  # fmt: skip
VERIFICATION, PROBES = "eval/verification.json", "eval/msid.json"


def run(stage: Stage) -> None:
    """Take every distance at one N, ask the judges, and draw what they say."""
    p, root, models, threads = stage.params, stage.root, stage.root / "data/models", stage.params.machine.threads
    judge = load_judge_features(models / "judge-b", stage.device)
    spaces: dict[str, Any] = {JUDGED: judge, "frechet_random": RandomProjection(p.score.feature_dim)}
    if p.score.inception is not None:
        spaces["fid"] = InceptionFeatures(p.score.inception, stage.device)
    recognizer = models / "recognizer-judge"
    embedder = FaceEmbedder.load(recognizer, threads=threads) if available(recognizer) else None
    train, test = (Faces.open(root / "data/faces", split) for split in ("train", "test"))
    vae = load_autoencoder(models / "autoencoder").to(stage.device)
    reconstruct = round_trip(vae, dtype=stage.dtype)
    answers = judged(root / "eval/samples", judge, embedder, progress=stage.progress)
    sizes = {f"{name}'s prior": len(found.rows(PRIOR)) for name, found in answers.items()}
    n = common_count(p.score.num_reference, {"train": len(train), "test": len(test), **sizes})
    if n < p.score.num_reference:
        sys.stderr.write(f"score: note: distances at N = {n}, not {p.score.num_reference}: a set has no more images\n")
    real, reconstructed, people = real_sets(
        train, test, spaces, reconstruct, seed=p.base.seed, num_reference=p.score.num_reference, n=n, threads=threads,
        progress=stage.progress,
    )  # fmt: skip
    prior = {name: prior_features(found, spaces, n) for name, found in answers.items()}
    accuracy = read_json(models / "judge-b/accuracy.json")
    with threadpool_limits(1, user_api="blas"):  # small matrices: threads cost time on a busy machine, and last digits
        found = evaluate(
            answers, prior, real, reconstructed, people=people, spaces=spaces,
            rates=judge_rates(accuracy, answers["dit"].samples.attribute_names),
            same_person=same_person_cosine(embedder),
            settings=Settings(
                guidance_scale=p.sample.guidance_scale, num_steps=p.sample.num_steps,
                images_seen=p.dit.total_images, num_neighbors=p.score.num_neighbors, seed=p.base.seed,
            ),
        )  # fmt: skip
    edits = score_edits(
        root / "eval/edits", test, judge, embedder, reconstruct, default=p.edit.method,
        seed=p.base.seed, threads=threads, progress=stage.progress,
    )  # fmt: skip
    upscaling, strip = score_upscaling(
        models / "upscaler", root / "data/faces-large", judge, embedder, reconstruct,
        resolution=test.resolution, num=p.score.num_reference, seed=p.base.seed, threads=threads,
        progress=stage.progress,
    )  # fmt: skip
    condition = models / "recognizer-condition"
    synthetic = identity_figures(
        root / "eval/identities", train, Faces.open(root / "data/faces", "val"), test, judge, embedder,
        condition=FaceEmbedder.load(condition, threads=threads) if available(condition) else None,
        method=p.identities.method, quantile=p.identities.leakage_quantile, seed=p.base.seed, threads=threads,
        progress=stage.progress,
    )  # fmt: skip
    verification, probes = read_json(root / VERIFICATION), read_json(root / PROBES)
    given = given_people(stage, test, judge, embedder)
    figures = found.figures | {
        "judge": judge_figures(accuracy),
        "recognizer": recognizer_figures(read_json(recognizer / "accuracy.json")),
        "edit": edits,
        "upscale": upscaling,
        "identities": synthetic,
        "verification": verification,
        "personalize": given,
        "msid": {
            "probes": probes,
            "verification": {
                name: recognizer_figures(read_json(models / folder / "accuracy.json"))
                for name, folder in {"msid": "msid", "condition": "recognizer-condition"}.items()
            },
        },
        "detector": read_json(models / "detector/detector.json"),
    }
    with stage.output("eval/plots") as folder:
        rows = chosen_rows(p.base.seed, "test", size=len(test), num=COLUMNS * ROWS)
        write_plots(
            folder, found, models=models, shown=reconstructed.shown, train=train,
            samples={name: one.samples for name, one in answers.items()}, test=test.images(rows, threads=threads),
        )  # fmt: skip
        write_edit_plots(folder, edits)
        write_identity_plots(folder, synthetic, verification)
        write_personalize_plots(folder, given, probes)
        if strip is not None:
            write_upscaling(folder / "upscaling.png", strip)
        write_json(folder / "models.json", described(models, vae))
        manifests = [read_json(root / name / "manifest.json")["parameters"] for name in FOLDERS]
        write_json(folder / "parameters.json", {k: v for part in manifests for k, v in part.items()})
    write_json(root / "eval/metrics.json", figures)
    stage.metrics(figures)
    for path in sorted((root / "eval/plots").glob("*.png")):
        stage.picture(path)


def given_people(stage: Stage, test: Faces, judge: JudgeFeatures, embedder: FaceEmbedder | None) -> dict[str, Any]:
    """Return `personalize`: pictures of given people by the text-to-image model, and by the LatentDiT as `dit`."""
    p, root, threads = stage.params, stage.root, stage.params.machine.threads
    detector, scenes = root / "data/models/detector", read_json(root / "data/scenes/scenes.json")
    found = "absent" not in read_json(detector / "detector.json")
    figures = personalize_figures(
        root / "eval/personalize", test, judge, embedder,
        FaceDetector.open(detector, threads=threads).detect if found else None,
        scenes=Scenes.open(root / "data/scenes", "test") if scenes.get("source") == "drawn" else None,
        clip=None if p.personalize.clip is None else ClipScore.open(p.personalize.clip, device=stage.device),
        seed=p.base.seed, threads=threads, progress=stage.progress,
    )  # fmt: skip
    by_dit = dit_identity_figures(
        root / "eval/personalize-dit", test, judge, embedder, seed=p.base.seed, threads=threads, progress=stage.progress
    )
    return figures | {"dit": by_dit}


def described(models: Path, vae: Autoencoder) -> dict[str, Any]:
    """Return what the report says of the models."""
    return {
        "parameters": {name: count_parameters(models / path) for name, path in COUNTED.items()},
        "factor": factor(vae),
        "latent_channels": read_json(models / "autoencoder/config.json")["latent_channels"],
    }


if __name__ == "__main__":
    main(run)
