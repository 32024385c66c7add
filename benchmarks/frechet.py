"""How long the distances between two sets of features take, beside torch-fidelity's on the same features.

Both sides run in this process, on the same float32 rows of a decaying spectrum, one after the other; the best of
`--repeats` counts. What they compute is not the same everywhere:

    frechet     statistics and distance; ours also the interval
    kernel      ours: all pairs and an interval; theirs: 100 subsets of 1000 rows
    precision   precision and recall, k = 5; ours also density, coverage and four intervals (20 halves), float64

    python -m benchmarks.frechet --num 10000 --dims 2048 256 --output results.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from facegen.metrics.frechet import feature_statistics, frechet_distance, frechet_infinity, frechet_interval
from facegen.metrics.kernel import kernel_distance
from facegen.metrics.manifold import manifold_scores, memorisation

NEIGHBOURS = 5


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=10_000, help="rows of each set")
    parser.add_argument("--dims", type=int, nargs="+", default=[2048, 256])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="300 rows of 16 dimensions")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.toy:
        options.num, options.dims = 300, [16]
    results: dict[str, Any] = {"num": options.num, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    results["features"] = [measured(options.num, dim, options.repeats) for dim in options.dims]
    print(f"{options.num} rows against {options.num}, {results['threads']} threads, load {os.getloadavg()[0]:.1f}")
    for part in results["features"]:
        for row in part["compared"]:
            print(
                f"D {part['dim']:5d}  {row['what']:10s} ours {row['ours_s']:8.2f} s  theirs {row['theirs_s']:8.2f} s  "
                f"theirs / ours {row['ratio']:6.2f}  values {row['ours']:.6g} {row['theirs']:.6g}"
            )
        for what, seconds in part["ours_alone_s"].items():
            print(f"D {part['dim']:5d}  {what:16s} ours {seconds:8.2f} s")
        print(f"D {part['dim']:5d}  a whole `facegen score` outside its network: {part['score_s']:.1f} s")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1))


def measured(num: int, dim: int, repeats: int) -> dict[str, Any]:
    """Time everything at one number of dimensions."""
    generator = np.random.default_rng(dim)
    spread = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    first = generator.standard_normal((num, dim), np.float32) * spread
    second = generator.standard_normal((num, dim), np.float32) * spread * 1.1 + 0.05 * spread
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    subset = min(1000, num)
    pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "frechet": (lambda: our_distance(first, second), lambda: their_distance(a, b)),
        "kernel": (
            lambda: kernel_distance(first, second).value,
            lambda: kid_features_to_metric(a, b, kid_subsets=100, kid_subset_size=subset, verbose=False, rng_seed=0)[
                "kernel_inception_distance_mean"
            ],
        ),
        "precision": (
            lambda: manifold_scores(real=second, fake=first, k=NEIGHBOURS, generator=generator).precision.value,
            lambda: prc_features_to_metric(a, b, prc_neighborhood=NEIGHBOURS, verbose=False)["precision"],
        ),
    }
    alone = {
        "frechet_interval": lambda: frechet_interval(first, second, extractor="x"),
        "frechet_infinity": lambda: infinity(first, second, generator),
        "memorisation": lambda: memorisation(train=second[::-1], generated=first, test=second, generator=generator),
    }
    rows = []
    for what, (ours, theirs) in pairs.items():
        (our_s, our_value), (their_s, their_value) = timed(ours, repeats), timed(theirs, repeats)
        rows.append(
            {"what": what, "ours_s": our_s, "theirs_s": their_s, "ratio": their_s / our_s, "ours": our_value,
             "theirs": float(their_value)}
        )  # fmt: skip
    seconds = {what: timed(call, repeats)[0] for what, call in alone.items()}
    total = sum(seconds.values()) + sum(row["ours_s"] for row in rows if row["what"] != "frechet")
    return {"dim": dim, "compared": rows, "ours_alone_s": seconds, "score_s": total}


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the seconds of the fastest call, and what it returned."""
    best, value = float("inf"), None
    for _ in range(repeats):
        started = time.perf_counter()
        value = call()
        best = min(best, time.perf_counter() - started)
    return best, value


def our_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance by facegen."""
    a, b = (feature_statistics([rows], extractor="x") for rows in (first, second))
    return frechet_distance(a, b).value


def their_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the distance by torch-fidelity."""
    found = fid_statistics_to_metric(fid_features_to_statistics(first), fid_features_to_statistics(second), False)
    return found["frechet_inception_distance"]


def infinity(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> float | None:
    """Return the extrapolated distance, or None where there are too few rows for it."""
    try:
        return frechet_infinity(first, second, extractor="x", generator=generator).value
    except ValueError:
        return None


if __name__ == "__main__":
    main()
