"""Seconds that one edit of one photograph takes by each method, after loading, beside blend's on the same request.

All methods run in this process on the same photograph, mask and seed, in turns (`--repeats` rounds, so that a busy
machine slows all of them alike); the fastest round of each counts. The photograph is drawn; the mask is a band of a
fifth of it. The settings are those of params.yaml.

    python -m benchmarks.edit --model data/models --output results.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.edit import METHODS, EditSettings, FaceEditor
from facegen.editing import open_editor
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.pipeline import FacePipeline, make_scheduler
from facegen.rng import numpy_generator

BUDGET_S = 3.0  # of one edit by the default method, on a CPU
TOY = EditSettings(
    method="blend", num_steps=4, guidance_scale=2.0, attribute_scale=1.0, strength=0.6, resamples=2, dilation_cells=1,
    feather=0.05, zoom_side=0.5, zoom_below=0.3,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("data/models"), help="data/models, or what `facegen export` wrote"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; its own choice if left out")
    parser.add_argument("--toy", action="store_true", help="a tiny random model, no files")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    editor = toy_editor() if options.toy else open_editor(options.model, params=options.params, device="cpu").editor
    results = measured(editor, options.repeats)
    print(f"{editor.resolution} px, {results['threads']} threads, load {os.getloadavg()[0]:.1f}")
    for row in results["methods"]:
        mark = " (default)" if row["method"] == results["default"] else ""
        print(
            f"{row['method']:12s} {row['seconds']:7.3f} s  {row['evaluations']:5d} evaluations  "
            f"{row['ratio']:6.2f} of blend{mark}"
        )
    print(f"the default edit takes {results['default_s']:.2f} s; allowed: {BUDGET_S:.0f} s")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1))


def measured(editor: FaceEditor, repeats: int) -> dict[str, Any]:
    """Time every method on one request; a round runs all of them."""
    ask = request(editor)
    methods = [m for m in METHODS if m != "conditioned" or editor.inpainter is not None]
    best, evaluations = dict.fromkeys(methods, float("inf")), dict.fromkeys(methods, 0)
    for turn in range(repeats + 1):  # the first is not counted
        for method in methods:
            started = time.perf_counter()
            evaluations[method] = editor.edit(**ask, method=method).evaluations
            if turn:
                best[method] = min(best[method], time.perf_counter() - started)
    rows = [
        {"method": m, "seconds": best[m], "evaluations": evaluations[m], "ratio": best[m] / best["blend"]}
        for m in methods
    ]
    default = editor.settings.method
    return {
        "resolution": editor.resolution, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "methods": rows,
        "default": default, "default_s": best.get(default), "budget_s": BUDGET_S,
    }  # fmt: skip


def request(editor: FaceEditor) -> dict[str, Any]:
    """Return the arguments of an edit of one picture: noise, a band to repaint, one attribute changed."""
    size, num = editor.resolution, len(editor.attribute_names)
    mask = np.zeros((1, size, size), np.bool_)
    mask[:, size // 3 : size // 3 + size // 4, size // 10 : size - size // 10] = True
    changed = np.zeros((1, num), np.bool_)
    changed[0, 0] = True
    images = numpy_generator(0, "edit benchmark").integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return {"images": images, "states": np.ones((1, num), np.int8), "changed": changed, "masks": mask, "seeds": [0]}


def toy_editor() -> FaceEditor:
    """Return an editor of a tiny random model."""
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4).eval()
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=1, num_heads=2, mlp_ratio=2.0,
        attribute_names=["Smiling"], latent_mean=[0.0] * 4, latent_std=[1.0] * 4,
    ).eval()  # fmt: skip
    pipe = FacePipeline(
        model, vae, make_scheduler("euler", shift=1.0), guidance_scale=2.0, guidance_interval=[0.0, 1.0]
    )
    return FaceEditor(pipe, inpainter=inpainting_model(model).eval(), settings=TOY)


if __name__ == "__main__":
    main()
