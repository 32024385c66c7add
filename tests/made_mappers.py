"""Folders of a personaliser with random weights: a tiny Stable Diffusion, an identity encoder and its mappers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facegen.artifacts import sha256_file, write_json
from facegen.models.initialize import draw_weights
from facegen.models.msid import MSID
from facegen.personalize.mapping import Mapper
from facegen.rng import torch_generator
from tests.made_personalize import TEXT_WIDTH, make_sd_folder

VARIANTS = ("single", "single_plain", "mf2d", "mf2d_unlocalized")


def write_personalizer(folder: Path, *, variants: Sequence[str] = VARIANTS) -> None:
    """Write text-to-image/, msid/ and mapper/VARIANT/; the mappers' weights differ, and equal calls give equal ones."""
    make_sd_folder(folder / "text-to-image")
    msid = MSID(patch_size=56, width=8, depth=2, num_heads=2, depths=[0, 1])
    draw_weights(msid, torch_generator(0, "msid"))
    msid.save_pretrained(folder / "msid")
    weights = {file.name: sha256_file(file) for file in (folder / "msid").glob("*.safetensors")}
    about = {"class_word": "a person", "fusion": "replace_input", "msid": weights}
    for variant in variants:
        mapper = Mapper(identity_dim=16, expression_dim=2, hidden_size=8, out_dim=TEXT_WIDTH, dropout=0.0)
        draw_weights(mapper, torch_generator(VARIANTS.index(variant), "mapper"))
        mapper.save(folder / "mapper" / variant)
        write_json(folder / "mapper" / variant / "mapper.json", about)
