"""Small scenes, faces and models: what the tests of the mapper's training run on.

A person is a square of one colour, the same in all pictures of that person, on grey ground.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from facegen.data.images import encode_png
from facegen.data.scenes import Scenes, ScenesWriter, Segment
from facegen.data.shards import Faces, FacesWriter
from facegen.models.autoencoder import build_autoencoder
from facegen.models.initialize import draw_weights
from facegen.models.msid import MSID
from facegen.models.text_to_image import (
    TextToImage,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    draw_text_to_image,
    new_scheduler,
)
from facegen.personalize.subjects import SubjectScenes, TellingRule
from facegen.rng import numpy_generator, torch_generator

SIZE, LATENT = (16, 24), (8, 12)  # px; latent pixels
PEOPLE = 6
POINTS = np.array([[2.0, 2.0], [5.0, 2.0], [3.5, 4.0], [2.5, 6.0], [4.5, 6.0]], dtype=np.float32)
WORDS = ["a", "man", "woman", "person", "and", "smiling", ",", "with", "hat"]


def colour(person: int) -> np.ndarray:
    return numpy_generator(1, "colours", person).integers(0, 256, 3).astype(np.uint8)


def write_scenes(
    folder: Path, people: list[list[int]], *, faceless: frozenset[tuple[int, int]] = frozenset()
) -> Scenes:
    """Scenes of these people, from left to right; of the (scene, place) in `faceless` the landmarks are unknown."""
    with ScenesWriter(
        folder, "train", height=SIZE[0], width=SIZE[1], attribute_names=["Male"], source="made", rows_per_shard=100
    ) as writer:
        for number, members in enumerate(people):
            picture, segmap = np.full((*SIZE, 3), 128, np.uint8), np.zeros(SIZE, np.uint8)
            caption, segments = "", []
            for place, person in enumerate(members):
                left = 2 + 12 * place
                picture[4:12, left : left + 8], segmap[4:12, left : left + 8] = colour(person), place + 1
                caption += (" and " if place else "") + ("a man" if person % 2 else "a woman")
                unknown = (number, place) in faceless
                box = (float(left), 4.0, left + 8.0, 12.0)
                points = None if unknown else POINTS + np.array([left, 4], np.float32)
                segments.append(Segment(place + 1, "person", len(caption), box, points, person, (person % 2,)))
                caption += " smiling" if place == 0 else ""
            writer.add(str(number), encode_png(picture), encode_png(segmap), caption or "a", "a", segments)
    return Scenes.open(folder, "train")


def write_faces(folder: Path, identity: list[int]) -> Faces:
    options = {"resolution": 16, "attribute_names": ["Male"], "sources": {}, "rows_per_shard": 100}
    with FacesWriter(folder, "train", **options) as writer:
        for number, person in enumerate(identity):
            image = np.broadcast_to(colour(max(person, 0)), (16, 16, 3)).copy()
            image[:2, :2] = number
            writer.add(f"{number}", encode_png(image), np.array([person % 2]), person, 2 * POINTS)
    return Faces.open(folder, "train")


def small_msid() -> MSID:
    msid = MSID(patch_size=56, width=8, depth=2, num_heads=2, depths=[0, 1], mlp_ratio=1.0)
    msid.initialize(torch_generator(0, "msid"))
    return msid.eval().requires_grad_(False)


def small_base(folder: Path, *, prediction_type: str = "v_prediction") -> TextToImage:
    tokenizer = build_tokenizer(WORDS, folder, max_tokens=16)
    text_encoder = build_text_encoder(tokenizer, width=16, depth=1, num_heads=2)
    unet = build_unet(
        channels=[16, 16, 16], layers_per_block=1, latent_channels=4, latent_size=LATENT, text_width=16, num_heads=2
    )
    draw_text_to_image(text_encoder, unet, torch_generator(0, "networks"))
    with torch.no_grad():  # a last layer of zeros would hide everything before it
        unet.conv_out.weight.normal_(std=0.2, generator=torch_generator(0, "last"))
    vae = build_autoencoder(architecture="tiny", channels=[8, 8], layers_per_block=1, latent_channels=4)
    draw_weights(vae, torch_generator(0, "vae"))
    return TextToImage(tokenizer, text_encoder.eval(), unet.eval(), vae.eval(), new_scheduler(prediction_type))


def rule(**changes) -> TellingRule:
    values = {
        "class_word": "a person", "other_picture_share": 1.0, "drop_caption": 0.0,
        "object_share": 1.0,
    }  # fmt: skip
    return TellingRule(**{**values, **changes})


def subject_scenes(scenes: Scenes, faces: Faces | None, telling: TellingRule, **changes) -> SubjectScenes:
    values = {"expression": None, "most_pictures": 3, "seed": 0, "threads": 1}
    return SubjectScenes(scenes, faces, small_msid(), telling, **{**values, **changes})
