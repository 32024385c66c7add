"""Seconds that a picture of a synthetic person takes in two stages, beside plain guidance and beside the published way.

    one_stage           guidance from the first step: two evaluations a step
    adaptive            the second evaluation only for pictures that have gone over, as further rows of one pass
    adaptive_injection  the same; those rows borrow attention
    published           the same rule and the same pictures, computed as published: at every step all pictures twice, in
                        two passes, the first keeping its attention logits for the second

All run in this process on the same starts and people, in turns (`--repeats` rounds, so that a busy machine slows all of them
alike); the fastest round of each counts. The published way has to give the pictures of adaptive_injection, up to rounding.
The settings are those of params.yaml; the threshold is calibrated on the spot.

    python -m benchmarks.two_stage --model data/models --output results.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import facegen.models.dit as dit
from facegen.config import load_params
from facegen.flow.two_stage import Drawn, TwoStage
from facegen.identities import dataset
from facegen.identities.sampler import PeopleSampler, calibrated, method_settings
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT
from facegen.models.sharing import Sharing
from facegen.pipeline import FacePipeline, make_scheduler
from facegen.rng import torch_generator

WAYS = ("one_stage", "adaptive", "adaptive_injection", "published")
TOLERANCE = 1e-3  # of latents of unit variance


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("data/models"), help="data/models, or what `facegen export` wrote"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--images", type=int, default=64, help="pictures in one batch")
    parser.add_argument("--runs", type=int, default=64, help="of the calibration")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; its own choice if left out")
    parser.add_argument("--toy", action="store_true", help="a tiny random model, no files")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    sampler, target = toy_sampler() if options.toy else open_sampler(options.model, options.params)
    results = measured(sampler, target, images=options.images, runs=options.runs, repeats=options.repeats)
    print(f"{results['images']} pictures, {results['threads']} threads, load {os.getloadavg()[0]:.1f}")
    for row in results["ways"]:
        print(
            f"{row['way']:20s} {1000 * row['seconds_per_image']:8.1f} ms a picture  {row['evaluations']:6.1f} evaluations  "
            f"{row['ratio']:5.2f} of one_stage"
        )
    print(f"largest difference of the published way's latents: {results['difference']:.1e} (allowed: {TOLERANCE:.0e})")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1))


def measured(sampler: PeopleSampler, target: float, *, images: int, runs: int, repeats: int) -> dict[str, Any]:
    """Time every way on one batch; a round runs all of them."""
    generator = torch_generator(0, "two stage benchmark")
    people = F.normalize(torch.randn(images, sampler.identity_dim, generator=generator), dim=1)
    found = calibrated(
        sampler, target=target, num_runs=runs, seed=0, batch_size=images, model_sha256="", identity=people
    )
    methods = method_settings(sampler.settings, found, fixed_time=target)
    best, drawn = dict.fromkeys(WAYS, float("inf")), {}
    for turn in range(repeats + 1):  # the first is not counted
        for way in WAYS:
            settings = methods["adaptive_injection" if way == "published" else way]
            started = time.perf_counter()
            drawn[way] = in_two_passes(sampler, people, settings) if way == "published" else sampler.latents(
                people, range(images), settings=settings
            )  # fmt: skip
            if turn:
                best[way] = min(best[way], time.perf_counter() - started)
    same = torch.equal(drawn["published"].switch, drawn["adaptive_injection"].switch)
    difference = float((drawn["published"].latents - drawn["adaptive_injection"].latents).abs().max())
    if not same or difference > TOLERANCE:
        raise AssertionError(
            f"the published way gives other pictures (latents differ by {difference:.1e}): no comparison"
        )
    steps, count = sampler.num_steps, lambda way: float(drawn[way].evaluations.double().mean())
    rows = [
        {
            "way": way, "seconds_per_image": best[way] / images, "ratio": best[way] / best["one_stage"],
            "evaluations": 2.0 * steps if way == "published" else count(way),
        }
        for way in WAYS
    ]  # fmt: skip
    return {
        "images": images, "num_steps": steps, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "ways": rows,
        "difference": difference, "median_switch": float(drawn["adaptive"].switch.quantile(0.5)),
        "share": sampler.settings.share, "blocks": list(sampler.settings.blocks),
    }  # fmt: skip


class TwoPasses:
    """A LatentDiT that evaluates both conditions for all pictures, one after the other, keeping logits in between."""

    def __init__(self, model: LatentDiT, people: Tensor) -> None:
        self.model, self.people = model, people
        self.kept: list[Tensor] = []  # logits of the first pass, by block
        self.block, self.second, self.sharing = 0, False, Sharing(torch.empty(0), 0.0, ())

    def __call__(
        self, x: Tensor, t: Tensor, attributes: Tensor, identity: Tensor, known: Tensor, sharing: Sharing | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `two_stage` asks for, of the rows that it asks for."""
        B = len(self.people)
        self.sharing = Sharing(torch.empty(0), 0.0, ()) if sharing is None else sharing
        v, self.kept = [], []
        for self.second in (False, True):
            self.block = 0
            person = self.people if self.second else None
            v.append(self.model(x[:B], t[:B], attributes[:B], person, return_dict=False)[0])
        rows = torch.arange(B)[_asked(identity[B:], self.people)] if sharing is None else sharing.source[B:]
        maps = [_received(self.kept[i]) for i in self.sharing.mapped]
        return torch.cat([v[0], v[1][rows]]), torch.stack(maps) if maps else None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *, source: Tensor | None, share: float) -> Tensor:
        """Attention with its logits written out, mixed with those of the first pass where they are borrowed."""
        logits = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        if not self.second:
            self.kept.append(logits)
        elif self.sharing.share and self.block in self.sharing.blocks:
            logits = torch.lerp(logits, self.kept[self.block], self.sharing.share)
        self.block += 1
        return logits.softmax(dim=3) @ v


def in_two_passes(sampler: PeopleSampler, people: Tensor, settings: TwoStage) -> Drawn:
    """Draw what `sampler.latents` draws for seeds 0, 1, 2..., with every picture evaluated twice at every step."""
    passes = TwoPasses(sampler.pipe.transformer, people)
    own = sampler._network
    sampler._network = passes  # type: ignore[method-assign]
    try:
        with _attention(passes):
            return sampler.latents(people, range(len(people)), settings=settings)
    finally:
        sampler._network = own  # type: ignore[method-assign]


@contextmanager
def _attention(passes: TwoPasses) -> Iterator[None]:
    own = dit.shared_attention
    dit.shared_attention = passes.attention
    try:
        yield
    finally:
        dit.shared_attention = own


def _asked(identity: Tensor, people: Tensor) -> Tensor:
    """Return which of the people (B, E) are among the identities that are asked for."""
    return (people[:, None] == identity[None]).all(dim=2).any(dim=1)


def _received(logits: Tensor) -> Tensor:
    received = logits.softmax(dim=3).mean(dim=(1, 2))
    return received / received.amax(dim=1, keepdim=True)


def open_sampler(models: Path, params: Path) -> tuple[PeopleSampler, float]:
    """Return the sampler of these models with the settings of params.yaml, and the median time of switching."""
    pipe, p = FacePipeline.from_models(models, scheduler="euler", shift=1.0), load_params(params).identities
    pipe.transformer.eval()
    wanted = dataset.PeopleSettings(**{field.name: getattr(p, field.name) for field in fields(dataset.PeopleSettings)})
    return dataset.open_sampler(pipe, wanted, dtype=torch.float32), p.target


def toy_sampler() -> tuple[PeopleSampler, float]:
    """Return a sampler of a tiny random model."""
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4).eval()
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=3, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Smiling"], identity_dim=6, latent_mean=[0.0] * 4, latent_std=[1.0] * 4,
    ).eval()  # fmt: skip
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(0, "toy weights", i))
    settings = TwoStage(guidance_scale=2.0, early=0.98, late=0.2, criterion="x0", clock="time", share=0.5, blocks=(1,))
    pipe = FacePipeline(model, vae, make_scheduler("euler", shift=1.0))
    return PeopleSampler(pipe, settings, num_steps=8, shift=1.0, mapped=(1,), dtype=torch.float32), 0.5


if __name__ == "__main__":
    main()
