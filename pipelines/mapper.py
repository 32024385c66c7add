"""Train f_map, from a face to words: data/scenes, data/faces, text-to-image, msid -> data/models/mapper/VARIANT.

Four variants with the same scenes, features and order: `single` for one person; `mf2d` for several, which starts from
it and keeps each person's attention on that person; and each without what sets it apart: `single_plain` without class
guidance, `mf2d_unlocalized` without the localisation loss. Where there are no scenes, no text-to-image model or no
identity encoder, there is no mapper, and the folder says so.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from facegen.artifacts import sha256_file, write_json
from facegen.data.face_embedder import ABOUT as RECOGNIZER_ABOUT
from facegen.data.scenes import Scenes
from facegen.data.shards import Faces
from facegen.models.msid import load_msid
from facegen.models.text_to_image import TextToImage
from facegen.personalize.injection import REPLACE_INPUT, class_start
from facegen.personalize.learner import MapperLearner, MapperRecipe, scene_latents
from facegen.personalize.mapping import Mapper, load_mapper
from facegen.personalize.opening import MAPPER_ABOUT, absence, base_source
from facegen.personalize.subjects import SubjectScenes, TellingRule, person_masks
from facegen.rng import torch_generator
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

if TYPE_CHECKING:
    from accelerate import Accelerator

SCENES, FACES, MODELS, OUT = "data/scenes", "data/faces", "data/models", "data/models/mapper"
LOG_INTERVALS = 20  # lines in the log of one training
MOST_PICTURES = 3  # of one person that features are computed of
EXPRESSION_DIM = 64  # of the published network


@dataclass(frozen=True)
class Variant:
    """What sets one mapper apart from the others."""

    name: str
    several: bool  # tells up to mapper.max_subjects people of a scene; else one
    guided: bool  # class guidance for mapper.cgdr_share of the samples; else for none
    localized: bool  # the localisation loss, by mapper.localization_weight; else without
    start: str | None  # the variant that it starts from


VARIANTS = (
    Variant("single", several=False, guided=True, localized=False, start=None),
    Variant("single_plain", several=False, guided=False, localized=False, start=None),
    Variant("mf2d", several=True, guided=True, localized=True, start="single"),
    Variant("mf2d_unlocalized", several=True, guided=True, localized=False, start="single"),
)


@dataclass(frozen=True)
class Material:
    """What all variants learn from, computed once."""

    base: TextToImage
    data: SubjectScenes
    latents: torch.Tensor  # (N, C, h, w)
    masks: torch.Tensor  # (N, most, h, w)


def run(stage: Stage) -> None:
    """Train the four variants, or say why there are none."""
    models = stage.root / MODELS
    needed = [stage.root / SCENES / "scenes.json", models / "msid" / RECOGNIZER_ABOUT]
    if reason := absence([*needed, models / "text-to-image" / "text_to_image.json"]):
        sys.stderr.write(f"facegen: {stage.name}: no mapper: {reason}\n")
        with stage.output(OUT) as folder:
            write_json(folder / MAPPER_ABOUT, {"absent": reason})
        return
    accelerator = make_accelerator(stage.device, stage.dtype)
    material = gathered(stage, accelerator.device)
    trained: dict[str, Mapper] = {}
    with stage.output(OUT) as folder:
        for variant in VARIANTS:
            trained[variant.name] = fitted(stage, variant, material, trained, accelerator)
            if stage.is_main:
                write(stage, folder / variant.name, variant, trained[variant.name])
    stage.model(OUT)


def gathered(stage: Stage, device: torch.device) -> Material:
    """Encode the train scenes, and compute the features of their people."""
    p, seed, threads = stage.params.mapper, stage.params.base.seed, stage.params.machine.threads
    base = TextToImage.open(base_source(stage.root / MODELS / "text-to-image"), device=device)
    scenes, faces = Scenes.open(stage.root / SCENES, "train"), Faces.open(stage.root / FACES, "train")
    msid = load_msid(stage.root / MODELS / "msid").to(device)
    rule = TellingRule(
        class_word=p.class_word, other_picture_share=p.other_picture_share,
        drop_caption=p.drop_caption, object_share=p.object_share,
    )  # fmt: skip
    data = SubjectScenes(
        scenes, faces, msid, rule, expression=None, most_pictures=MOST_PICTURES, seed=seed, threads=threads
    )
    latents = scene_latents(base, scenes, dtype=stage.dtype, threads=threads)
    size = (latents.shape[2], latents.shape[3])
    masks = person_masks(scenes, kind=p.mask, most=data.most, latent_size=size, threads=threads)
    return Material(base, data, latents, masks)


def fitted(
    stage: Stage, variant: Variant, material: Material, trained: dict[str, Mapper], accelerator: Accelerator
) -> Mapper:
    """Train one variant; returns it in evaluation mode."""
    p, seed = stage.params.mapper, stage.params.base.seed
    total = p.multi_images if variant.several else p.single_images
    mapper = first_mapper(stage, variant, material, trained).to(accelerator.device)
    recipe = MapperRecipe(
        seed=seed, name="several" if variant.several else "single",
        max_subjects=p.max_subjects if variant.several else 1, fusion=p.fusion,
        class_word=p.class_word, drop_expression=p.drop_expression, background_weight=p.background_weight,
        cgdr_share=p.cgdr_share if variant.guided else 0.0,
        localization_weight=p.localization_weight if variant.localized else 0.0, mask_share=p.mask_share,
        total_images=total, learning_rate=p.learning_rate, weight_decay=p.weight_decay, grad_clip=p.grad_clip,
    )  # fmt: skip
    scratch = stage.scratch / variant.name
    scratch.mkdir(parents=True, exist_ok=True)
    train(
        MapperLearner(mapper, material.base, material.data, recipe, latents=material.latents, masks=material.masks),
        total_images=total, batch_size=p.batch_size, scratch=scratch,
        identity={"key": stage.key, "variant": variant.name}, log_images=max(1, total // LOG_INTERVALS),
        checkpoint_images=max(1, total // 2), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log(
            {f"{variant.name}/{key}": value for key, value in {**record, **timing}.items()}, step=int(record["images"])
        ),
    )  # fmt: skip
    return mapper.eval()


def first_mapper(stage: Stage, variant: Variant, material: Material, trained: dict[str, Mapper]) -> Mapper:
    """Return what a variant starts from: another one, the given one (mapper.start), or freshly drawn weights."""
    p, base = stage.params.mapper, material.base
    if variant.start is not None:
        return copy.deepcopy(trained[variant.start])
    if p.start is not None:
        return load_mapper(p.start)
    mapper = Mapper(
        identity_dim=material.data.features.shape[1], expression_dim=EXPRESSION_DIM, hidden_size=p.hidden_size,
        out_dim=base.text_encoder.config.hidden_size, dropout=p.dropout,
    )  # fmt: skip
    start = class_start(base.text_encoder, base.tokenizer, p.class_word).cpu()
    if p.fusion != REPLACE_INPUT:
        start = torch.zeros_like(start)  # what is added begins with nothing
    mapper.initialize(torch_generator(stage.params.base.seed, "mapper weights"), start)
    return mapper


def write(stage: Stage, folder: Path, variant: Variant, mapper: Mapper) -> None:
    """Write a variant's folder: network, what it was trained with, log."""
    p, models = stage.params.mapper, stage.root / MODELS
    mapper.save(folder)
    write_log_csv(folder / "log.csv", read_log(stage.scratch / variant.name))
    weights = {file.name: sha256_file(file) for file in sorted((models / "msid").glob("*.safetensors"))}
    source = base_source(models / "text-to-image")
    about = {
        "base": None if source == str(models / "text-to-image") else source,
        "msid": weights, "expression": mapper.config.expression,
        "class_word": p.class_word, "fusion": p.fusion, "start": variant.start or p.start,
        "max_subjects": p.max_subjects if variant.several else 1, "mask": p.mask,
        "cgdr_share": p.cgdr_share if variant.guided else 0.0, "background_weight": p.background_weight,
        "localization_weight": p.localization_weight if variant.localized else 0.0, "mask_share": p.mask_share,
        "images": p.multi_images if variant.several else p.single_images,
    }  # fmt: skip
    write_json(folder / MAPPER_ABOUT, about)


if __name__ == "__main__":
    main(run)
