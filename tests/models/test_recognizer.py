"""The recogniser: its shape against the published ones, and its ONNX file as insightface reads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facegen.data.face_embedder import open_onnx
from facegen.models.initialize import draw_weights
from facegen.models.recognizer import INPUT_SIZE, FaceRecognizer, PReLU, onnx_bytes
from facegen.rng import torch_generator


@pytest.fixture
def model() -> FaceRecognizer:
    """Weights and running statistics of every kind away from what they start as."""
    made = FaceRecognizer(width=8, depths=[1, 2, 1, 1], stem_stride=2, embedding_size=12)
    generator = torch_generator(0, "recognizer")
    draw_weights(made, generator)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.5, 0.5, generator=generator)
    return made.eval()


def pictures(count: int) -> np.ndarray:
    coarse = torch.rand(count, 3, 14, 14, generator=torch_generator(0, "faces")) * 255
    smooth = F.interpolate(coarse, size=INPUT_SIZE, mode="bicubic").clamp(0, 255)
    return smooth.byte().permute(0, 2, 3, 1).numpy()


def embeddings(model: FaceRecognizer, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()


def test_iresnet50_has_the_published_number_of_parameters():
    with torch.device("meta"):
        made = FaceRecognizer(width=64, depths=[3, 4, 14, 3], stem_stride=1, embedding_size=512)
    expected, before = 3 * 64 * 9 + 3 * 64, 64
    for channels, depth in zip((64, 128, 256, 512), (3, 4, 14, 3), strict=True):
        expected += depth * (9 * channels**2 + 5 * channels + 2 * channels) - 2 * channels + 2 * before  # norms, slopes
        expected += 9 * before * channels + (depth - 1) * 9 * channels**2 + before * channels + 2 * channels
        before = channels
    expected += 2 * 512 + 512 * 7 * 7 * 512 + 512 + 2 * 512
    assert sum(p.numel() for p in made.parameters()) == expected
    assert abs(expected - 43.59e6) < 5e3  # as published
    assert made.embed.in_features == 512 * 7 * 7


def test_prelu_is_torchs():
    mine, theirs, x = PReLU(5), nn.PReLU(5), torch.randn(4, 5, 3, 3, generator=torch_generator(0, "x"))
    slopes = torch.linspace(-0.4, 0.6, 5)
    gradients = []
    for layer in (mine, theirs):
        layer.weight.data.copy_(slopes)
        inputs = x.clone().requires_grad_(True)
        out = layer(inputs)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        gradients.append((out, inputs.grad, layer.weight.grad))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-5)


def test_insightface_reads_the_file_and_agrees(model, tmp_path):
    path = tmp_path / "recognizer.onnx"
    path.write_bytes(onnx_bytes(model))
    loaded = open_onnx(path, threads=1)
    assert (loaded.input_mean, loaded.input_std, loaded.input_size) == (127.5, 127.5, (112, 112))
    images = pictures(5)
    expected = embeddings(model, images)
    assert np.abs(expected).max() > 0.1
    blue_first = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    assert np.abs(loaded.get_feat(blue_first) - expected).max() < 1e-4
    assert np.abs(loaded.get_feat(blue_first[0]) - expected[:1]).max() < 1e-4  # any number of pictures
    assert np.abs(loaded.get_feat(list(images)) - expected).max() > 1e-2  # it sees which channel is which


def test_equal_weights_give_equal_bytes(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = FaceRecognizer.from_pretrained(tmp_path).eval()
    assert onnx_bytes(model) == onnx_bytes(again) == onnx_bytes(model.to(memory_format=torch.channels_last))
    with torch.no_grad():
        again.blocks[2].act.weight[3] += 1e-3
    assert onnx_bytes(model) != onnx_bytes(again)


def test_every_stage_halves_and_the_gain_is_frozen(model):
    sides = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[1:])))
    embeddings(model, pictures(1))
    assert sides == [(8, 28, 28), (16, 14, 14), (16, 14, 14), (32, 7, 7), (64, 4, 4)]
    assert not model.embed_norm.weight.requires_grad and model.embed_norm.bias.requires_grad


def test_wrong_shapes_are_refused(model):
    with pytest.raises(ValueError, match="expected \\(B, 3, 112, 112\\)"):
        model(torch.zeros(1, 3, 128, 128))
    with pytest.raises(ValueError, match="4 numbers of blocks"):
        FaceRecognizer(width=8, depths=[1, 1, 1], stem_stride=2, embedding_size=8)
