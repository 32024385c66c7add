"""Measure and train the 1024-wide, 15-deep LatentDiT on a GPU, with nothing but torch, accelerate and diffusers.

    python -m benchmarks.gpu measure --output out            images/s, utilisation and memory: eager and compiled, by batch;
                                                             sampling images/s by steps
    python -m benchmarks.gpu pack data/latents packed        latents as one file (means in float16), small enough to carry
    python -m benchmarks.gpu train packed --autoencoder data/models/autoencoder --scratch scratch --minutes 8 --output out

`train` goes on from the newest checkpoint in its scratch folder, so that several short calls make one training; each call
writes log.jsonl, preview grids and results.json. Schedules are those of profiles/celeba.yaml, restated here because the
machine may lack pydantic and the files around it. `--toy` shrinks the network and the batches, for tests on a CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.artifacts import load_tensors, save_tensors, write_json
from facegen.errors import StoppedError
from facegen.flow.sampler import initial_noise
from facegen.grids import save_png
from facegen.models.autoencoder import load_autoencoder
from facegen.models.dit import LatentDiT, training_flops
from facegen.rng import torch_generator
from facegen.train.dit import DiTLearner, DiTRecipe, LatentSet, validation_mse
from facegen.train.loop import LOG, PEAK_BF16_TFLOPS, make_accelerator, train
from facegen.train.preview import attribute_preview, averaged_copy, sample_latents

FULL = dict(patch_size=2, hidden_size=1024, depth=15, num_heads=16, mlp_ratio=4.0)
TOY = dict(patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0)
EMA = 0.10
HELD_OUT = 1 / 20  # of a packed set, for the validation loss


def build(side: int, channels: int, names: list[str], *, toy: bool, **travels: Any) -> LatentDiT:
    """Return a freshly drawn network."""
    model = LatentDiT(
        sample_size=side, in_channels=channels, attribute_names=names, **(TOY if toy else FULL), **travels
    )
    model.initialize_weights(torch_generator(0, "dit weights"))
    return model


def recipe(total_images: int, warmup_images: int) -> DiTRecipe:
    """Return the training recipe of the CelebA profile for this many images."""
    return DiTRecipe(
        seed=0, path="linear", time_mean=-0.5, time_std=1.0, laplacian_weight=0.1, total_images=total_images,
        learning_rate=2e-4, warmup_images=warmup_images, decay_fraction=0.25, betas=(0.9, 0.95), weight_decay=0.0,
        grad_clip=1.0, drop_all=0.1, drop_some=0.3, drop_identity=0.0, drop_components=0.0,
        other_picture_share=0.0, other_mean_share=0.0, ema_sigma_rel=(0.05, EMA),
    )  # fmt: skip


def random_set(num: int, channels: int, side: int, names: list[str], device: torch.device) -> LatentSet:
    """Return random latents: speed does not depend on what they show (but zeros would flatter it)."""
    g = np.random.default_rng(0)
    mean = g.standard_normal((num, 2, channels, side, side), dtype=np.float32)
    return LatentSet.from_arrays(
        mean, np.full_like(mean, -6.0), g.integers(0, 2, (num, len(names))),
        channel_mean=[0.0] * channels, channel_std=[1.0] * channels, device=device,
    )  # fmt: skip


def seconds_per_call(step: Callable[[], object], *, warmup: int, repeats: int, device: torch.device) -> float:
    """Return the median seconds of a call, the device drained before each reading."""
    times = []
    for _ in range(warmup + repeats):
        _drain(device)
        start = time.perf_counter()
        step()
        _drain(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[warmup:]))


def _drain(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what this ran on."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    peak = next((p for key, p in PEAK_BF16_TFLOPS.items() if key in name), None)
    return {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "peak_bf16_tflops": peak}


def measure_training(
    device: torch.device, dtype: torch.dtype, *, batch: int, compiled: bool, toy: bool
) -> dict[str, Any]:
    """Time whole training steps (data, forward, backward, clip, guard, AdamW, two EMAs) of the shared loop's parts."""
    names = [f"attribute_{i}" for i in range(12)]
    model = build(16, 4, names, toy=toy).to(device)
    if compiled:
        for block in model.blocks:
            block.compile()
    learner = DiTLearner(model, random_set(4 * batch, 4, 16, names, device), recipe(10**9, 1))
    accelerator = make_accelerator(device, dtype)
    module = accelerator.prepare_model(model)
    position = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step() -> None:
        nonlocal position
        phase = learner.phases[0]
        phase.optimizer.zero_grad(set_to_none=True)
        loss, _ = phase.loss(module, learner.batch(position, batch))
        accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), phase.grad_clip)
        phase.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        phase.optimizer.step()
        position += batch
        learner.ema.update(images_seen=position, num_images=batch)

    seconds = seconds_per_call(step, warmup=2 if toy else 8, repeats=3 if toy else 20, device=device)
    tflops = training_flops(model) * batch / seconds / 1e12
    peak = hardware(device)["peak_bf16_tflops"]
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {"batch": batch, "compiled": compiled, "ms_per_step": 1e3 * seconds, "images_per_s": batch / seconds,
            "model_tflops_per_s": tflops, "flops_utilisation": tflops / peak if peak else None,
            "memory_gib": memory}  # fmt: skip


def measure_sampling(device: torch.device, dtype: torch.dtype, *, batch: int, steps: int, toy: bool) -> dict[str, Any]:
    """Time guided Euler sampling of latents (two network passes a step)."""
    names = [f"attribute_{i}" for i in range(12)]
    model = build(16, 4, names, toy=toy, latent_mean=[0.0] * 4, latent_std=[1.0] * 4).to(device).eval()
    states = torch.zeros(batch, 12, dtype=torch.int8, device=device)
    noise = initial_noise(range(batch), (4, 16, 16)).to(device)

    def sample() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sample_latents(model, states, noise, num_steps=steps, guidance_scale=2.0)

    seconds = seconds_per_call(sample, warmup=1, repeats=3, device=device)
    return {"batch": batch, "steps": steps, "images_per_s": batch / seconds, "seconds": seconds}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements and return them."""
    device, dtype = chosen(options)
    cuda = device.type == "cuda"
    batches = [8] if options.toy else [256, 512, 1024]
    training = [
        measure_training(device, dtype, batch=batch, compiled=compiled, toy=options.toy)
        for compiled in ([False, True] if cuda else [False])
        for batch in batches
    ]
    pairs = [(4, 2)] if options.toy else [(1, 50), (256, 25), (256, 50)]
    sampling = [measure_sampling(device, dtype, batch=b, steps=s, toy=options.toy) for b, s in pairs]
    for row in training + sampling:
        print(json.dumps(row), file=sys.stderr)
    return {"hardware": hardware(device), "training": training, "sampling": sampling}


def pack(options: argparse.Namespace) -> dict[str, Any]:
    """Write the training latents as one file: posterior means of the images themselves, float16."""
    from facegen.data.latents import Latents

    latents = Latents.open(options.latents, "train")
    about = {"attribute_names": list(latents.attribute_names), **latents.stats}
    means = torch.from_numpy(np.array(latents.mean[:, 0], dtype=np.float16))
    # One posterior width per channel and one for all images is enough where posteriors are tight.
    logvar = torch.from_numpy(np.asarray(latents.logvar[:, 0], np.float32).mean(axis=(0, 2, 3)))
    attributes = torch.from_numpy(np.array(latents.attributes, dtype=np.int8))
    save_tensors(options.packed, {"mean": means, "logvar": logvar, "attributes": attributes}, about)
    return {"images": len(means), "mib": Path(options.packed).stat().st_size / 2**20}


def unpack(path: Path, device: torch.device) -> tuple[LatentSet, LatentSet, dict[str, Any]]:
    """Return (training set, held-out set, what travels with them) of a packed file."""
    tensors, about = load_tensors(path)
    mean = tensors["mean"].numpy()[:, None].repeat(2, axis=1)
    logvar = np.broadcast_to(tensors["logvar"].numpy()[None, None, :, None, None], mean.shape)
    cut = max(1, int(len(mean) * HELD_OUT))

    def part(rows: slice) -> LatentSet:
        return LatentSet.from_arrays(
            mean[rows], logvar[rows], tensors["attributes"].numpy()[rows],
            channel_mean=about["mean"], channel_std=about["std"], device=device,
        )  # fmt: skip

    return part(slice(cut, None)), part(slice(0, cut)), about


def train_on(options: argparse.Namespace) -> dict[str, Any]:
    """Train for the given minutes (going on from the scratch folder), then draw previews and report."""
    device, dtype = chosen(options)
    resident, held_out, about = unpack(Path(options.packed), device)
    side, channels = resident.mean.shape[-1], resident.mean.shape[2]
    model = build(
        side, channels, about["attribute_names"], toy=options.toy, latent_mean=about["mean"], latent_std=about["std"]
    ).to(device)
    if device.type == "cuda":
        for block in model.blocks:
            block.compile()
    how = recipe(options.images, warmup_images=500 * options.batch)
    learner, stop, started = DiTLearner(model, resident, how), threading.Event(), time.monotonic()
    scratch, output = Path(options.scratch), Path(options.output)
    scratch.mkdir(parents=True, exist_ok=True)
    timings: list[dict[str, float]] = []

    def on_log(record: dict[str, float], timing: dict[str, float]) -> None:
        timings.append(timing)
        print(json.dumps({**record, **timing}), file=sys.stderr)
        if time.monotonic() - started > 60 * options.minutes:
            stop.set()

    try:
        train(
            learner, total_images=options.images, batch_size=options.batch, scratch=scratch,
            identity={"images": options.images, "toy": options.toy, "data": len(resident)},
            log_images=32 * options.batch, checkpoint_images=options.images, checkpoint_minutes=5,
            accelerator=make_accelerator(device, dtype), on_log=on_log, stop=stop,
        )  # fmt: skip
        done = True
    except StoppedError:
        done = False
    released = averaged_copy(model, learner.ema, EMA)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        error = validation_mse(released, held_out, how, batch_size=options.batch)
        if options.autoencoder:
            vae = load_autoencoder(options.autoencoder).to(device)
            picture = attribute_preview(released, vae, seed=0, num_steps=4 if options.toy else 50)
            save_png(output / "preview.png", picture)
    shutil.copy(scratch / LOG, output / LOG)
    if done and options.toy:
        released.save_pretrained(output / "dit")
    last = json.loads((scratch / LOG).read_text().splitlines()[-1])
    speed = {k: float(np.median([t[k] for t in timings if k in t])) for k in timings[-1]} if timings else {}
    return {"hardware": hardware(device), "done": done, "images_seen": last["images"], "val_mse": error, "speed": speed}


def chosen(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return device and autocast dtype: the GPU in bfloat16 if there is one; the toy in float32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    return device, torch.float32 if options.toy else torch.bfloat16


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, dest="command")
    timed = commands.add_parser("measure", help="time training and sampling")
    packing = commands.add_parser("pack", help="write latents as one file")
    packing.add_argument("latents", help="a folder that the latents stage wrote")
    packing.add_argument("packed", help="the file to write")
    training = commands.add_parser("train", help="train on a packed file, resuming")
    training.add_argument("packed")
    training.add_argument("--autoencoder", help="its folder, to decode the previews")
    training.add_argument("--scratch", required=True, help="checkpoints; the next call goes on from them")
    training.add_argument("--minutes", type=float, required=True, help="stop and save after so long")
    training.add_argument("--images", type=int, default=19_200_000, help="length of the whole training, in images")
    training.add_argument("--batch", type=int, default=512)
    for command in (timed, packing, training):
        command.add_argument("--output", default=".", help="folder for results.json, log and previews")
        command.add_argument("--toy", action="store_true", help="a small network, for tests on a CPU")
    return top


def main(arguments: list[str] | None = None) -> None:
    """Run one command and write results.json."""
    options = parser().parse_args(arguments)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    results = {"measure": measure, "pack": pack, "train": train_on}[options.command](options)
    write_json(Path(options.output) / "results.json", results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
