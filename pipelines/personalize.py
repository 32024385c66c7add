"""Draw people of the test split: text-to-image, msid, mapper, data/faces -> eval/personalize.

pictures.parquet holds the same requests by every method and ablation, and mf2d over alpha; one.png, two.png and alphas.png
show some. A person is told by one picture; judges see others later. Killed and started again, the stage keeps the methods
that were done. Where there is no mapper, or nobody is known, there are no pictures, and personalize.json says so.
"""

from __future__ import annotations

import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from facegen.artifacts import atomic_path, write_json
from facegen.data.align import face_crops
from facegen.data.shards import Faces
from facegen.grids import save_png
from facegen.models.msid import load_msid
from facegen.models.text_to_image import TextToImage
from facegen.personalize.generation import METHODS, Personalizer, Request, Settings
from facegen.personalize.opening import MAPPER_ABOUT, absence, base_source, open_personalizer
from facegen.personalize.picture_sets import Wanted, chosen_people, grids, known_people, planned, reference_rows
from facegen.personalize.pictures import ABOUT, PICTURES, Drawn, write_pictures
from facegen.personalize.references import person_features
from pipelines.stage import Stage, main

OUT = "eval/personalize"


def run(stage: Stage) -> None:
    """Plan the pictures, draw them method by method, write them and the grids."""
    models = stage.root / "data/models"
    if not stage.is_main:
        return
    faces = Faces.open(stage.root / "data/faces", "test")
    if reason := absent(models / "mapper" / MAPPER_ABOUT, faces):
        sys.stderr.write(f"facegen: {stage.name}: no pictures of given people: {reason}\n")
        with stage.output(OUT) as folder:
            write_json(folder / ABOUT, {"absent": reason})
        return
    wanted = wanted_of(stage)
    people, pairs = chosen_people(faces.identity, wanted.num_people, seed=wanted.seed)
    references = reference_rows(faces.identity, sorted({*people, *(person for pair in pairs for person in pair)}))
    rows = planned(wanted, people, pairs, references)
    features = told(faces, references, models / "msid", device=stage.device, threads=stage.params.machine.threads)
    base = TextToImage.open(base_source(models / "text-to-image"), device=stage.device)
    seconds: dict[str, float] = {}
    parts = []
    for (method, alpha), part in groupby(rows, key=lambda row: (row.method, row.alpha)):
        started, asked = time.perf_counter(), list(part)
        parts.append(drawn(stage, base, asked, features))
        seconds[f"{method} at {alpha:g}"] = (time.perf_counter() - started) / len(asked)
    stage.metrics({"seconds_a_picture": seconds})
    shown = {person: faces.images(own, threads=1)[0] for person, own in references.items()}
    write(stage, rows, np.concatenate(parts), shown)
    for path in sorted((stage.root / OUT).glob("*.png")):
        stage.picture(path)


def absent(mapper: Path, faces: Faces) -> str | None:
    """Return why nobody can be drawn, or None."""
    if reason := absence([mapper]):
        return reason
    few = len(known_people(faces.identity)) < 2
    return "no two people of the test split have two pictures each" if few else None


def write(stage: Stage, rows: list[Drawn], images: np.ndarray, shown: dict[int, np.ndarray]) -> None:
    """Write the pictures, what they were made with, and the grids; shown: a reference picture of each person."""
    p, words = stage.params.personalize, stage.params.mapper
    about = {
        "alpha": p.alpha, "alphas": list(p.alphas), "class_word": words.class_word, "fusion": words.fusion,
        "base": p.base, "scheduler": p.scheduler, "num_steps": p.num_steps, "guidance_scale": p.guidance_scale,
        "negative": p.negative,
    }  # fmt: skip
    groups = {row.subjects for row in rows}
    counts = {name: sum(len(own) == num for own in groups) for num, name in ((1, "people"), (2, "pairs"))}
    with stage.output(OUT) as folder:
        write_pictures(folder / PICTURES, rows, images, about=about)
        write_json(folder / ABOUT, {**about, **counts, "pictures": len(rows)})
        for name, grid in grids(rows, images, shown, alpha=p.alpha, class_word=words.class_word).items():
            save_png(folder / f"{name}.png", grid)


def wanted_of(stage: Stage) -> Wanted:
    """Return what params.yaml asks for."""
    p = stage.params.personalize
    return Wanted(
        prompts_one=p.prompts_one, prompts_two=p.prompts_two, num_people=p.num_people,
        images_per_prompt=p.images_per_prompt, alpha=p.alpha, alphas=p.alphas, alpha_people=p.alpha_people,
        seed=stage.params.base.seed,
    )  # fmt: skip


def told(
    faces: Faces, references: dict[int, tuple[int, ...]], folder: Path, *, device: torch.device, threads: int
) -> dict[int, torch.Tensor]:
    """Return the features (I,) of each person, of the reference pictures aligned by their landmarks."""
    msid = load_msid(folder).to(device).eval()
    size = int(msid.config.image_size)
    return {
        person: person_features(msid, [face_crops(faces.images(own, threads=threads), faces.landmarks[list(own)], size=size)])
        for person, own in references.items()
    }  # fmt: skip


def drawn(stage: Stage, base: TextToImage, rows: list[Drawn], features: dict[int, torch.Tensor]) -> np.ndarray:
    """Return the pictures of one method at one alpha, from the scratch folder if they are there."""
    p, method, alpha = stage.params.personalize, rows[0].method, rows[0].alpha
    kept = stage.scratch / f"{method}-{alpha:g}.npy"
    if kept.is_file():
        return np.load(kept)
    settings = Settings(
        num_steps=p.num_steps, guidance_scale=p.guidance_scale, alpha=alpha, negative=p.negative,
        scheduler=p.scheduler, batch_size=p.batch_size, dtype=stage.dtype,
    )  # fmt: skip
    mapper = METHODS[method].mapper
    requests = [
        Request(row.prompt, None if mapper is None else torch.stack([features[k] for k in row.subjects]), row.seed)
        for row in rows
    ]
    bar = stage.progress(-(-len(rows) // p.batch_size) * p.num_steps, f"{method} at {alpha:g}")
    images = personalizer(stage, base, mapper).generate_many(requests, settings, on_step=lambda *_: bar.update(1))
    bar.close()
    with atomic_path(kept) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    return images


def personalizer(stage: Stage, base: TextToImage, mapper: str | None) -> Personalizer:
    """Return what draws with one variant of the mapper; None: with none."""
    words = stage.params.mapper
    return open_personalizer(
        base, msid=None, mapper=None if mapper is None else stage.root / "data/models/mapper" / mapper,
        class_word=words.class_word, fusion=words.fusion, device=stage.device,
    )  # fmt: skip


if __name__ == "__main__":
    main(run)
