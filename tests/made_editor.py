"""A model's folder with everything that editing uses, small and untrained, of faces of 32 px."""

from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper

from facegen.artifacts import write_json
from facegen.data.align import CANONICAL
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.models.judge import AttributeJudge
from facegen.models.upscaler import ResidualUpscaler, draw_upscaler_weights
from facegen.rng import torch_generator

NAMES = ("Male", "Smiling", "Eyeglasses", "Mustache", "Black_Hair", "Blond_Hair")
SIDE = 32
SEEN = {
    "Male": 3.0,
    "Smiling": -3.0,
    "Eyeglasses": 0.2,
    "Mustache": 0.7,
    "Black_Hair": 2.0,
    "Blond_Hair": -0.9,
}  # logits
STATES = (1, 0, -1, -1, 1, 0)  # what they mean: sigmoid(0.7) is 0.67, sigmoid(-0.9) is 0.29


def write_models(folder: Path, *, seed: int = 0) -> None:
    """Write dit, autoencoder, inpainter, judge-a, recognizer-condition and upscaler, as the stages do."""
    vae = build_autoencoder(architecture="tiny", channels=[16, 16, 16], layers_per_block=1, latent_channels=4)
    dit = LatentDiT(
        sample_size=SIDE // 4, in_channels=4, patch_size=4, hidden_size=32, depth=1, num_heads=2, mlp_ratio=2.0,
        attribute_names=list(NAMES), latent_mean=[0.0] * 4, latent_std=[1.0] * 4, identity_dim=12,
    )  # fmt: skip
    for i, parameter in enumerate([*dit.parameters(), *vae.parameters()]):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(seed, "weights", i))
    inpainter = inpainting_model(dit, mean_landmarks=CANONICAL.tolist())
    upscaler = ResidualUpscaler(scale=4, width=4, growth=4, layers_per_block=1, num_blocks=1)
    draw_upscaler_weights(upscaler, torch_generator(seed, "upscaler"))
    judge = AttributeJudge(attribute_names=list(NAMES), width=8, resolution=SIDE)
    torch.nn.init.zeros_(judge.head.weight)
    judge.head.bias.data = torch.tensor([SEEN[name] for name in NAMES])
    for name, model in (
        ("dit", dit),
        ("autoencoder", vae),
        ("inpainter", inpainter),
        ("upscaler", upscaler),
        ("judge-a", judge),
    ):
        model.save_pretrained(folder / name)
    _write_recognizer(folder / "recognizer-condition")


def _write_recognizer(folder: Path) -> None:
    """Write a recogniser that returns the mean colours of four quarters of its crop."""
    folder.mkdir()
    nodes = [
        helper.make_node("AveragePool", ["data"], ["cells"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["cells"], ["out"]),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 12])
    model = helper.make_model(
        helper.make_graph(nodes, "cells", [data], [out]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    (folder / "recognizer.onnx").write_bytes(model.SerializeToString())
    write_json(folder / "recognizer.json", {"mean_landmarks": CANONICAL.tolist(), "thresholds": {}})


def photograph(height: int = 150, width: int = 200, *, seed: int = 0) -> np.ndarray:
    """Smooth colours with grain, uint8 (H, W, 3); what it shows does not matter to untrained networks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    smooth = 120 + 60 * np.sin(6 * np.stack([x + y, x - y, x * y], axis=-1) + rng.uniform(0, 6, 3))
    return np.clip(smooth + rng.normal(0, 8, (height, width, 1)), 0, 255).astype(np.uint8)


def face_points(height: int = 150, width: int = 200) -> np.ndarray:  # (5, 2)
    """Return landmarks of a face of 90 px, a little turned, in the middle of the photograph."""
    turn = np.array([[0.97, -0.24], [0.24, 0.97]])
    return ((CANONICAL - 0.5) @ turn.T * 90 + (width / 2, height / 2)).astype(np.float32)
