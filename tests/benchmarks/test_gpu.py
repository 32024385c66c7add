"""The standing GPU script, at toy size on a CPU: it measures, packs, trains, resumes, and needs few packages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import main
from facegen.artifacts import load_tensors, save_tensors, write_json
from facegen.data.latents import write_shard
from facegen.models.autoencoder import build_autoencoder

ROOT = Path(__file__).parents[2]


def packed(path):
    g = np.random.default_rng(0)
    tensors = {
        "mean": torch.from_numpy(g.normal(size=(64, 4, 8, 8)).astype(np.float16)),
        "logvar": torch.full((4,), -6.0),
        "attributes": torch.from_numpy(g.integers(0, 2, (64, 2)).astype(np.int8)),
    }
    save_tensors(path, tensors, {"attribute_names": ["Male", "Smiling"], "mean": [0.0] * 4, "std": [1.0] * 4})
    return path


def test_measure(tmp_path):
    main(["measure", "--toy", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["training"][0]["images_per_s"] > 0 and results["training"][0]["model_tflops_per_s"] > 0
    assert results["sampling"][0]["images_per_s"] > 0


def test_training_in_two_calls_is_one_training(tmp_path):
    data, vae = packed(tmp_path / "packed.safetensors"), tmp_path / "vae"
    build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4).save_pretrained(
        vae
    )
    common = ["train", str(data), "--toy", "--images", "1024", "--batch", "8", "--autoencoder", str(vae)]
    logs = []
    for name, minutes in (("split", [0.0, 10.0]), ("whole", [10.0])):
        for call, limit in enumerate(minutes):
            out = tmp_path / f"{name}{call}"
            main([*common, "--scratch", str(tmp_path / name), "--minutes", str(limit), "--output", str(out)])
        results = json.loads((out / "results.json").read_text())
        assert results["done"] and results["images_seen"] == 1024 and (out / "preview.png").stat().st_size > 1000
        logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
        for line in logs[-1]:
            line.pop("timing")
    assert logs[0] == logs[1] and len(logs[0]) == 4
    first = json.loads((tmp_path / "split0" / "results.json").read_text())
    assert not first["done"] and first["images_seen"] == 256


def test_pack_keeps_means_and_labels(tmp_path):
    g = np.random.default_rng(1)
    mean, attributes = g.normal(size=(6, 2, 4, 2, 2)), g.integers(0, 2, (6, 2))
    write_shard(
        tmp_path / "train-00000.parquet", ids=list("abcdef"), mean=mean, logvar=np.full_like(mean, -3.0),
        attributes=attributes, identity=np.full(6, -1), attribute_names=["Male", "Smiling"],
    )  # fmt: skip
    write_json(tmp_path / "stats.json", {"mean": [0.5] * 4, "std": [2.0] * 4})
    main(["pack", str(tmp_path), str(tmp_path / "packed.safetensors"), "--output", str(tmp_path)])
    tensors, about = load_tensors(tmp_path / "packed.safetensors")
    assert np.array_equal(tensors["mean"].numpy(), mean[:, 0].astype(np.float16))
    assert tensors["logvar"].tolist() == [-3.0] * 4 and np.array_equal(tensors["attributes"].numpy(), attributes)
    assert about == {"attribute_names": ["Male", "Smiling"], "mean": [0.5] * 4, "std": [2.0] * 4}


def test_it_needs_no_pydantic_dvc_mlflow_or_prefect():
    code = (
        "import sys\n"
        "for name in ('pydantic', 'dvc', 'mlflow', 'prefect', 'typer', 'gradio', 'ruamel'): sys.modules[name] = None\n"
        "import benchmarks.gpu\n"
        "benchmarks.gpu.parser().parse_args(['measure', '--toy'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
