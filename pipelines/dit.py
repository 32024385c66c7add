"""Train the LatentDiT on the cached latents: data/latents -> data/models/dit (`torchrun -m pipelines.dit` on several GPUs)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from facegen.artifacts import atomic_write_bytes, canonical_json, load_tensors, save_tensors
from facegen.data.latents import Latents
from facegen.grids import save_png
from facegen.models.autoencoder import load_autoencoder
from facegen.models.dit import LatentDiT
from facegen.rng import torch_generator
from facegen.train.dit import DiTLearner, DiTRecipe, LatentSet, validation_mse
from facegen.train.loop import make_accelerator, positions_crossed, read_log, train, write_log_csv
from facegen.train.preview import attribute_preview, averaged_copy, copy_with
from pipelines.stage import Stage, main

VALIDATION = "validation.jsonl"  # in the scratch folder


def build_model(stage: Stage, latents: Latents) -> LatentDiT:
    """Return a freshly drawn LatentDiT that fits these latents."""
    p, (channels, side) = stage.params.dit, latents.mean.shape[2:4]
    model = LatentDiT(
        sample_size=side, in_channels=channels, patch_size=p.patch_size, hidden_size=p.hidden_size, depth=p.depth,
        num_heads=p.num_heads, mlp_ratio=p.mlp_ratio, attribute_names=list(latents.attribute_names),
        identity_dim=None if latents.embedding is None else latents.embedding.shape[1],
        latent_mean=latents.stats["mean"], latent_std=latents.stats["std"], path=stage.params.flow.path,
    )  # fmt: skip
    model.initialize_weights(torch_generator(stage.params.base.seed, "dit weights"))
    return model


def recipe_of(stage: Stage) -> DiTRecipe:
    """Return the recipe that params.yaml states."""
    p, f = stage.params.dit, stage.params.flow
    return DiTRecipe(
        seed=stage.params.base.seed, path=f.path, time_mean=f.time_mean, time_std=f.time_std,
        laplacian_weight=f.laplacian_weight, total_images=p.total_images, learning_rate=p.learning_rate,
        warmup_images=p.warmup_images, decay_fraction=p.decay_fraction, betas=(p.betas[0], p.betas[1]),
        weight_decay=p.weight_decay, grad_clip=p.grad_clip, drop_all=p.drop_all, drop_some=p.drop_some,
        drop_identity=p.drop_identity, drop_components=p.drop_components,
        other_picture_share=p.other_picture_share, other_mean_share=p.other_mean_share, ema_sigma_rel=p.ema_sigma_rel,
    )  # fmt: skip


def run(stage: Stage) -> None:
    p, device, dtype = stage.params.dit, stage.device, stage.dtype
    accelerator = make_accelerator(device, dtype)
    train_latents, val_latents = (Latents.open(stage.root / "data/latents", split) for split in ("train", "val"))
    model, recipe = build_model(stage, train_latents).to(accelerator.device), recipe_of(stage)
    if device.type == "cuda":
        for block in model.blocks:
            block.compile()
    resident, held_out = (latent_set(latents, accelerator.device) for latents in (train_latents, val_latents))
    learner = DiTLearner(model, resident, recipe)
    vae = load_autoencoder(str(stage.root / "data/models/autoencoder")).to(device)

    def on_grid(images_seen: int) -> None:
        released = averaged_copy(model, learner.ema, p.ema_release)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            errors = {"val_mse": validation_mse(released, held_out, recipe, batch_size=p.batch_size)}
            if held_out.embedding is not None:
                errors["val_mse_identity"] = validation_mse(
                    released, held_out, recipe, batch_size=p.batch_size, with_identity=True
                )
            picture = attribute_preview(released, vae, seed=stage.params.base.seed, num_steps=p.grid_steps)
        note_validation(stage, images_seen, errors)
        path = stage.scratch / f"grid-{images_seen:012d}.png"
        save_png(path, picture)
        stage.picture(path)

    snapshots = snapshot_positions(p.total_images, p.num_snapshots)

    def on_snapshot(images_seen: int) -> None:
        for position in positions_crossed(snapshots, images_seen=images_seen, num_images=p.batch_size):
            save_tensors(snapshot_file(stage, position), learner.ema.state_dict(p.ema_release), {"images": images_seen})

    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=stage.scratch,
        identity={"key": stage.key}, log_images=p.log_images, checkpoint_images=p.checkpoint_images,
        checkpoint_minutes=p.checkpoint_minutes, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
        visits=[(snapshots, on_snapshot),
                (range(p.grid_images, p.total_images + p.batch_size, p.grid_images), on_grid)],
    )  # fmt: skip
    with stage.output("data/models/dit") as folder:
        averaged_copy(model, learner.ema, p.ema_release).save_pretrained(folder)
        for sigma in sorted({*p.ema_sigma_rel} - {p.ema_release}):
            averaged_copy(model, learner.ema, sigma).save_pretrained(folder / f"ema-{sigma:.3f}")
        if stage.is_main:
            for position in snapshots:
                path = snapshot_file(stage, position)
                copy_with(model, load_tensors(path)[0]).save_pretrained(folder / path.stem)
            write_log_csv(folder / "log.csv", with_validation(stage, read_log(stage.scratch)))
    stage.model("data/models/dit")


def latent_set(latents: Latents, device: torch.device) -> LatentSet:
    """Return the latents on the device."""
    return LatentSet.from_arrays(
        latents.mean, latents.logvar, latents.attributes,
        channel_mean=latents.stats["mean"], channel_std=latents.stats["std"], device=device,
        embedding=latents.embedding, identity=latents.identity,
    )  # fmt: skip


def snapshot_positions(total_images: int, num_snapshots: int) -> list[int]:
    """Return where the averaged weights are kept: evenly spaced up to the end, less the end (the released model)."""
    positions = {round(total_images * i / num_snapshots) for i in range(1, num_snapshots)}
    return sorted(positions - {0, total_images})


def snapshot_file(stage: Stage, position: int) -> Path:
    """Return where a snapshot waits in the scratch folder; its stem is the name of the folder that it becomes."""
    return stage.scratch / f"snapshot-{position:012d}.safetensors"


def note_validation(stage: Stage, images_seen: int, errors: Mapping[str, float]) -> None:
    """Keep one line per position, so that a resumed run leaves the same file."""
    path = stage.scratch / VALIDATION
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["images"] < images_seen]
    kept.append(canonical_json({"images": images_seen, **errors}))
    atomic_write_bytes(path, ("\n".join(kept) + "\n").encode())
    stage.log(errors, step=images_seen)


def with_validation(stage: Stage, records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the log with the validation errors in the first line at or after their position."""
    path = stage.scratch / VALIDATION
    pending = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for record in records:
        while pending and pending[0]["images"] <= record["images"]:
            record |= {name: value for name, value in pending.pop(0).items() if name != "images"}
    return records


if __name__ == "__main__":
    main(run)
