"""Is a recogniser trained on synthetic people as good? eval/identities, data/faces -> eval/verification.json.

The same network is trained twice by the same fixed schedule, from the same weights: on the synthetic people, and on as
many pictures of as many real people of the train split. The last weights count; nothing is chosen by a figure. Both, and
the network before training as the floor, are then verified on the people of the test split, and on published sets.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facegen.artifacts import atomic_write_bytes, read_json, write_json
from facegen.data.face_embedder import ABOUT, ONNX, embed_faces
from facegen.data.pair_bins import PairBin
from facegen.data.people_set import PEOPLE, PeopleSet
from facegen.data.shards import Faces
from facegen.metrics.pair_folds import above_chance_ratio, judged_right
from facegen.metrics.verification import (
    NUM_FOLD_PAIRS,
    accept_thresholds,
    cosines,
    make_pairs,
    verification_report,
)
from facegen.models.recognizer import onnx_bytes
from facegen.rng import numpy_generator
from facegen.train.loop import make_accelerator
from facegen.train.recognizer import (
    PicturesOfPeople,
    UnmarkedPictures,
    as_many_pictures,
    known_people,
    mean_landmarks,
)
from facegen.verification_pairs import PAIRS, PairEmbedder, benchmark_files, embed_people, pair_figures
from pipelines.recognizer import ACCURACY, described, drawn, trained, write_absence, write_network
from pipelines.stage import Stage, main

IDENTITIES, REPORT = "eval/identities", "eval/verification.json"
SYNTHETIC, REAL, UNTRAINED = "synthetic", "real", "untrained"
DRAWS = "verify"  # of weights, order and variation: both recognisers draw alike


class Judged(NamedTuple):
    """A recogniser, its figures on the test split, and which of those pairs it judges rightly (P,); None: no pairs."""

    judge: PairEmbedder
    report: dict[str, Any]
    right: np.ndarray | None


def run(stage: Stage) -> None:
    """Train both, judge all three, compare."""
    learned = Faces.open(stage.root / "data/faces", "train")
    reason = absence(stage.root / IDENTITIES)
    try:
        known = known_people(learned.identity)[0]
    except ValueError as error:
        reason = reason or str(error)
    if reason:
        sys.stderr.write(f"facegen: {stage.name}: nothing to verify: {reason}\n")
        for name in (SYNTHETIC, REAL):
            with stage.output(f"data/models/recognizer-{name}") as folder:
                write_absence(folder, reason)
        write_json(stage.root / REPORT, {"absent": reason})
        return
    p, seed = stage.params.verify, stage.params.base.seed
    files = [] if p.benchmarks is None else benchmark_files(stage.root / p.benchmarks)  # wrong ones cost no training
    people = PeopleSet.open(stage.root / IDENTITIES / PEOPLE)
    counts = np.unique(people.identity, return_counts=True)[1]
    rows = as_many_pictures(learned.identity, counts, rng=numpy_generator(seed, "verify real people"))
    sets: dict[str, tuple[PicturesOfPeople, np.ndarray]] = {
        SYNTHETIC: (people, np.arange(len(people))),
        REAL: (learned, rows),
    }
    if (found := len(np.unique(learned.identity[rows]))) < len(counts) or len(rows) < len(people):
        sys.stderr.write(
            f"facegen: {stage.name}: note: {len(counts)} synthetic people with {len(people)} pictures are compared with "
            f"{found} real ones with {len(rows)}: the train split has no more\n"
        )
    mean = mean_landmarks(learned.landmarks[known], resolution=learned.resolution)
    judged = {name: recognizer_of(stage, name, *chosen, mean=mean) for name, chosen in sets.items()}
    judged[UNTRAINED] = untrained(stage, mean)
    report: dict[str, Any] = {name: dict(found.report) for name, found in judged.items()}
    for name, (source, chosen) in sets.items():
        size = {"people": len(np.unique(source.identity[chosen])), "pictures": len(chosen)}
        report[name]["trained_on"] = size
    report["above_chance_ratio"] = ratio(stage, judged[SYNTHETIC], judged[REAL])
    report["benchmarks"] = {file.stem: on_benchmark(stage, judged, file) for file in files}
    write_json(stage.root / REPORT, report)
    figures = {name: found.report.get("accuracy", {}).get("value") for name, found in judged.items()}
    figures["above_chance_ratio"] = (report["above_chance_ratio"] or {}).get("value")
    stage.metrics({name: value for name, value in figures.items() if value is not None})


def absence(folder: Path) -> str | None:
    """Return why there are no synthetic people, as their stage says it; None where there are."""
    about = folder / "people.json"
    return read_json(about).get("absent") if about.is_file() else None


def recognizer_of(stage: Stage, name: str, source: PicturesOfPeople, rows: np.ndarray, *, mean: np.ndarray) -> Judged:
    """Train on these pictures, judge the recogniser, and write its folder.

    Every picture, real or not, is aligned by the mean landmarks: synthetic ones have no others.
    """
    threads, out, scratch = stage.params.machine.threads, f"recognizer-{name}", stage.scratch / name
    accelerator = make_accelerator(stage.device, stage.dtype)
    data = UnmarkedPictures(source, rows, mean=mean, device=accelerator.device, threads=threads)
    model = trained(
        stage, data, stage.params.verify, name=DRAWS, scratch=scratch, accelerator=accelerator, prefix=f"{name}/"
    )
    held_out = Faces.open(stage.root / "data/faces", "val")
    chosen = np.flatnonzero(held_out.identity >= 0)
    with stage.output(f"data/models/{out}") as folder:
        write_network(folder, model, scratch=scratch)
        judge = opened(folder, name=out, mean=mean, threads=threads)
        about = described(judge, source=None)
        vectors = embed_faces(judge, held_out, chosen, by_landmarks=False, threads=threads)
        about["thresholds"], about["threshold_from"] = accept_thresholds(
            {"val": vectors},
            {"val": held_out.identity[chosen]},
            rng=numpy_generator(stage.params.base.seed, "recognizer thresholds"),
        )
        judged = on_test(stage, judge)
        write_json(folder / ABOUT, about)
        write_json(folder / ACCURACY, judged.report)
    stage.model(f"data/models/{out}")
    return judged


def untrained(stage: Stage, mean: np.ndarray) -> Judged:
    """Judge the network that both trainings began with."""
    folder = stage.scratch / UNTRAINED
    folder.mkdir(parents=True, exist_ok=True)
    model = drawn(stage.params.verify, seed=stage.params.base.seed, name=DRAWS).eval()
    atomic_write_bytes(folder / ONNX, onnx_bytes(model))
    return on_test(stage, opened(folder, name=UNTRAINED, mean=mean, threads=stage.params.machine.threads))


def opened(folder: Path, *, name: str, mean: np.ndarray, threads: int) -> PairEmbedder:
    """Open the network of a folder that has no recognizer.json yet."""
    return PairEmbedder(folder / ONNX, name=name, about={"mean_landmarks": mean, "thresholds": {}}, threads=threads)


def on_test(stage: Stage, judge: PairEmbedder) -> Judged:
    """Judge a recogniser on the people of the test split, which none has seen."""
    faces, seed = Faces.open(stage.root / "data/faces", "test"), stage.params.base.seed
    rows = np.flatnonzero(faces.identity >= 0)
    vectors, people = embed_people(judge, faces, rows, threads=stage.params.machine.threads), faces.identity[rows]
    try:
        report = verification_report(vectors, people, rng=numpy_generator(seed, PAIRS))
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: not verified: {error}\n")
        return Judged(judge, {"absent": f"the test split: {error}"}, None)
    pairs = make_pairs(people, numpy_generator(seed, PAIRS), NUM_FOLD_PAIRS)  # those of the report's accuracy
    return Judged(judge, report, judged_right(cosines(vectors, pairs.first, pairs.second), pairs))


def ratio(stage: Stage, synthetic: Judged, real: Judged) -> dict[str, Any] | None:
    """Return what share of the second one's accuracy above chance the first one reaches, with its interval."""
    if synthetic.right is None or real.right is None:
        return None
    identity, seed = Faces.open(stage.root / "data/faces", "test").identity, stage.params.base.seed
    people = identity[identity >= 0]
    pairs = make_pairs(people, numpy_generator(seed, PAIRS), NUM_FOLD_PAIRS)
    found = above_chance_ratio(
        synthetic.right, real.right, pairs, (people[pairs.first], people[pairs.second]),
        rng=numpy_generator(seed, "verify people"),
    )  # fmt: skip
    return found.to_json() if found else None


def on_benchmark(stage: Stage, judged: dict[str, Judged], file: Path) -> dict[str, Any]:
    """Return the figures of each recogniser on a published set."""
    pairs = PairBin.open(file)
    with stage.progress(len(judged) * 2 * len(pairs), file.name) as bar:
        return {
            name: pair_figures(found.judge, pairs, threads=stage.params.machine.threads, on_done=bar.update)
            for name, found in judged.items()
        }


if __name__ == "__main__":
    main(run)
