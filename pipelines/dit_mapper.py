"""Tell the LatentDiT people by photographs: dit, msid, data/latents, data/faces -> data/models/dit-mapper, eval/personalize-dit.

Two adapters, with class guidance (dit_mapped) and without (dit_mapped_plain); then pictures of people of the test split by
each, and by the recogniser's embedding. Where there is no identity encoder, or the test split has not two people with two
pictures, there is none of it, and both folders say so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from facegen.artifacts import sha256_file, write_json
from facegen.data.face_embedder import ABOUT as RECOGNIZER_ABOUT
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.latents import Latents
from facegen.data.samples import write_samples
from facegen.data.shards import Faces
from facegen.grids import save_png
from facegen.models.dit import LatentDiT
from facegen.models.msid import MSID, load_msid
from facegen.models.person_condition import MappedIdentity
from facegen.personalize import dit_pictures as pictures
from facegen.personalize.dit_adapter import DiTAdapter
from facegen.personalize.dit_learner import DiTMapperLearner, DiTMapperRecipe
from facegen.personalize.dit_references import Part, References, picture_features
from facegen.personalize.opening import absence
from facegen.pipeline import FacePipeline
from facegen.rng import torch_generator
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.dit import latent_set
from pipelines.stage import Stage, main

if TYPE_CHECKING:
    from accelerate import Accelerator

MODEL, OUT, MODELS = "data/models/dit-mapper", "eval/personalize-dit", "data/models"
ABOUT = "dit_mapper.json"
VARIANTS = {pictures.MAPPED: True, pictures.PLAIN: False}  # whether class guided
MOST_PICTURES = 3  # of one person that features are computed of
LOG_INTERVALS = 20  # lines in the log of one training


@dataclass(frozen=True)
class Material:
    """What both adapters learn from, computed once."""

    model: LatentDiT
    latents: Latents
    faces: Faces
    references: References
    features: Tensor  # (R, I)


def run(stage: Stage) -> None:
    """Train both adapters and draw, or say why not."""
    seed, threads = stage.params.base.seed, stage.params.machine.threads
    unseen = Faces.open(stage.root / "data/faces", "test")
    try:
        if reason := absence([stage.root / MODELS / "msid" / RECOGNIZER_ABOUT]):
            raise ValueError(reason)
        people = pictures.chosen_people(unseen.identity, stage.params.dit_mapper.num_people, seed=seed)
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: no adapter: {error}\n")
        for path, name in ((MODEL, ABOUT), (OUT, pictures.ABOUT)):
            with stage.output(path) as folder:
                write_json(folder / name, {"absent": str(error)})
        return
    accelerator = make_accelerator(stage.device, stage.dtype)
    msid = load_msid(stage.root / MODELS / "msid").to(accelerator.device)
    material = gathered(stage, msid, accelerator.device)
    adapters = {name: fitted(stage, name, material, accelerator) for name in VARIANTS}
    if not stage.is_main:
        return
    with stage.output(MODEL) as folder:
        for name, adapter in adapters.items():
            adapter.save_pretrained(folder / name)
            write_log_csv(folder / name / "log.csv", read_log(stage.scratch / name))
        weights = {
            file.name: sha256_file(file) for file in sorted((stage.root / MODELS / "msid").glob("*.safetensors"))
        }
        write_json(folder / ABOUT, {"msid": weights, "mask": part_of(stage), "variants": list(VARIANTS)})
    features = picture_features(msid, unseen, people.references, threads=threads)
    draw(stage, unseen, people, {name: adapter.identities(features) for name, adapter in adapters.items()})
    stage.model(MODEL)


def gathered(stage: Stage, msid: MSID, device: torch.device) -> Material:
    """Read the train split, and compute the features of a few pictures of each person.

    Raises:
        ValueError: if data/latents were made of other pictures.
    """
    faces, latents = Faces.open(stage.root / "data/faces", "train"), Latents.open(stage.root / "data/latents", "train")
    if list(faces.ids) != list(latents.ids):
        raise ValueError("data/latents and data/faces hold different pictures; run the latents stage again")
    references = References.chosen(faces.identity, most=MOST_PICTURES, seed=stage.params.base.seed)
    rows, threads = references.rows.numpy(), stage.params.machine.threads
    features = picture_features(msid, faces, rows, threads=threads)
    model = LatentDiT.from_pretrained(stage.root / MODELS / "dit").to(device)
    return Material(model, latents, faces, references, features)


def part_of(stage: Stage) -> Part:
    """Return where identity may show: a face picture has no mask of the whole person, so that is the head."""
    return "head" if stage.params.mapper.mask == "segment" else stage.params.mapper.mask


def fitted(stage: Stage, name: str, material: Material, accelerator: Accelerator) -> DiTAdapter:
    """Train one adapter; returns it in evaluation mode."""
    p, m, d, f = stage.params.dit_mapper, stage.params.mapper, stage.params.dit, stage.params.flow
    seed, config = stage.params.base.seed, material.model.config
    adapter = DiTAdapter(material.features.shape[1], p.hidden_size, config.hidden_size, m.dropout)
    adapter.initialize(torch_generator(seed, "adapter weights"))
    recipe = DiTMapperRecipe(
        seed=seed, dtype=stage.dtype, path=config.path, time_mean=f.time_mean, time_std=f.time_std,
        laplacian_weight=f.laplacian_weight, class_guided=VARIANTS[name], background_weight=p.background_weight,
        part=part_of(stage), other_picture_share=m.other_picture_share, drop_all=d.drop_all, drop_some=d.drop_some,
        total_images=p.total_images, learning_rate=p.learning_rate, weight_decay=p.weight_decay,
        betas=(d.betas[0], d.betas[1]), grad_clip=m.grad_clip,
    )  # fmt: skip
    learner = DiTMapperLearner(
        adapter.to(accelerator.device), material.model, latent_set(material.latents, accelerator.device), recipe,
        references=material.references, features=material.features, landmarks=material.faces.landmarks,
        size_px=material.faces.resolution,
    )  # fmt: skip
    scratch = stage.scratch / name
    scratch.mkdir(parents=True, exist_ok=True)
    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=scratch,
        identity={"key": stage.key, "variant": name}, log_images=max(1, p.total_images // LOG_INTERVALS),
        checkpoint_images=max(1, p.total_images // 2), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log(
            {f"{name}/{key}": value for key, value in {**record, **timing}.items()}, step=int(record["images"])
        ),
    )  # fmt: skip
    return adapter.eval()


def draw(stage: Stage, faces: Faces, people: pictures.People, mapped: dict[str, MappedIdentity]) -> None:
    """Draw people of the test split by every method, and write the pictures and the grids."""
    p, s, threads = stage.params.dit_mapper, stage.params.sample, stage.params.machine.threads
    models = stage.root / MODELS
    pipe = FacePipeline.from_models(
        models, scheduler=s.scheduler, shift=s.time_shift, guidance_interval=list(s.guidance_interval)
    ).to(stage.device)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    photographs = faces.images(people.references, threads=threads)
    told: dict[str, pictures.Identity] = dict(mapped)
    if pipe.transformer.config.identity_dim is not None and available(models / "recognizer-condition"):
        embedder = FaceEmbedder.load(models / "recognizer-condition", threads=threads)
        embeddings = embedder.embed(photographs, faces.landmarks[people.references])
        told = {pictures.RECOGNIZER: torch.from_numpy(embeddings), **told}
    drawing = pictures.Drawing(
        seed=stage.params.base.seed, num_steps=s.num_steps, guidance_scale=s.guidance_scale,
        identity_scales=p.identity_scales, batch_size=s.batch_size, dtype=stage.dtype,
    )  # fmt: skip
    bar = stage.progress(pictures.num_pictures(people, list(told), p.identity_scales), "people by the LatentDiT")
    sets = pictures.drawn(pipe, people, faces.attributes[people.asked], told, drawing, on_images=bar.update)
    bar.close()
    with stage.output(OUT) as folder:
        write_samples(
            folder / pictures.PICTURES, seeds=np.concatenate([of for of, _, _ in sets.values()]),
            attributes=np.concatenate([states for _, states, _ in sets.values()]),
            images_uint8=np.concatenate([images for _, _, images in sets.values()]),
            sets=[name for name, (of, _, _) in sets.items() for _ in of], attribute_names=faces.attribute_names,
        )  # fmt: skip
        about = {"methods": list(told), "identity_scales": list(p.identity_scales), "guidance_scale": s.guidance_scale}
        write_json(folder / pictures.ABOUT, people.to_json() | about | {"num_steps": s.num_steps})
        images = {name: found for name, (_, _, found) in sets.items()}
        for name, picture in pictures.grids(images, photographs, people.pairs, p.identity_scales).items():
            save_png(folder / f"{name}.png", picture)
    for path in sorted((stage.root / OUT).glob("*.png")):
        stage.picture(path)


if __name__ == "__main__":
    main(run)
