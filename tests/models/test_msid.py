"""MSID: published names and sizes, its mathematics written anew, its files, and its ONNX as insightface reads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facegen.data.align import face_crops, recognizer_template
from facegen.data.face_embedder import open_onnx
from facegen.errors import DamagedArtifactError
from facegen.models.loading import load_checked
from facegen.models.msid import MSID, embed_subjects, load_msid, onnx_bytes, save_msid_pt
from facegen.rng import torch_generator

PUBLISHED = {"patch_size": 8, "width": 384, "depth": 12, "num_heads": 12, "depths": [2, 5, 8, 11]}


@pytest.fixture
def model() -> MSID:
    """Heads of 8 channels; weights and running statistics of every kind away from what they start as."""
    made = MSID(patch_size=28, width=32, depth=4, num_heads=4, depths=[0, 2, 3], mlp_ratio=2.0)
    generator = torch_generator(0, "msid")
    made.initialize(generator)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return made.eval()


def pictures(count: int) -> np.ndarray:
    coarse = torch.rand(count, 3, 14, 14, generator=torch_generator(0, "faces")) * 255
    return F.interpolate(coarse, size=112, mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def crops(count: int) -> torch.Tensor:
    return torch.from_numpy(pictures(count)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_published_sizes_and_names():
    with torch.device("meta"):
        made = MSID(**PUBLISHED)
    width, tokens = 384, 197
    block = 4 * width + 3 * width * width + 3 * width + width * width + width + 8 * width * width + 5 * width
    expected = 12 * block + 8 * 8 * 3 * width + width + tokens * width + width + 2 * width + 4 * 4 * width
    assert sum(p.numel() for p in made.parameters()) == expected == 21_450_624
    assert made.embedding_size == 1536
    names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names |= {f"blocks.{i}.{layer}.{part}" for i in range(12) for layer in layers for part in ("weight", "bias")}
    norms = {f"norms.layer_{d}.{i}.{part}" for d in (2, 5, 8, 11) for i in (0, 1) for part in ("weight", "bias")}
    counts = ("running_mean", "running_var", "num_batches_tracked")
    norms |= {f"norms.layer_{d}.0.{part}" for d in (2, 5, 8, 11) for part in counts}
    assert set(made.state_dict()) == names | norms
    assert made.state_dict()["pos_embed"].shape == (1, tokens, width)


def written_anew(state: dict[str, torch.Tensor], images: torch.Tensor, *, heads: int, depths: list[int]):
    """The network in float64 by formulas alone: no layer of torch, no attention of torch."""
    w = {name: value.double() for name, value in state.items()}

    def norm(x, name, eps):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[name + ".weight"] + w[name + ".bias"]
        )

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    kernel = w["patch_embed.proj.weight"]
    side = kernel.shape[2]
    squares = images.double().unfold(2, side, side).unfold(3, side, side)  # (B, 3, rows, columns, s, s)
    x = torch.einsum("bcijhw,dchw->bijd", squares, kernel) + w["patch_embed.proj.bias"]
    x = x.flatten(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    read = []
    for i in range(max(depths) + 1):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1", 1e-6), f"blocks.{i}.attn.qkv").chunk(3, dim=2)
        seen = []
        for one, two, three in zip(*(part.chunk(heads, dim=2) for part in (q, k, v)), strict=True):
            weights = (one @ two.transpose(1, 2) / one.shape[2] ** 0.5).exp()
            seen.append(weights / weights.sum(2, keepdim=True) @ three)
        x = x + linear(torch.cat(seen, dim=2), f"blocks.{i}.attn.proj")
        h = linear(norm(x, f"blocks.{i}.norm2", 1e-6), f"blocks.{i}.mlp.fc1")
        x = x + linear(h * (1 + torch.erf(h / 2**0.5)) / 2, f"blocks.{i}.mlp.fc2")
        if i in depths:
            name = f"norms.layer_{i}"
            token = (x[:, 0] - w[name + ".0.running_mean"]) / (w[name + ".0.running_var"] + 1e-5).sqrt()
            read.append(norm(token * w[name + ".0.weight"] + w[name + ".0.bias"], name + ".1", 1e-5))
    return torch.stack(read, dim=1)


def test_it_is_the_mathematics_of_the_docstring(model):
    images = crops(3)
    expected = written_anew(model.state_dict(), images, heads=4, depths=[0, 2, 3])
    with torch.no_grad():
        found = model.per_depth(images)
        assert found.shape == (3, 3, 32) and expected.std() > 0.3
        assert (found - expected).abs().max() < 1e-4
        assert torch.equal(model(images), found.flatten(1))
        assert (found[0] - found[1]).abs().max() > 1e-2


def test_the_last_norm_is_never_read_and_never_trained(model):
    model.train()
    model(crops(2)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"norm.weight", "norm.bias"}
    assert not any(parameter.requires_grad for parameter in model.norm.parameters())


def test_a_pt_file_and_a_folder_hold_the_same_network(model, tmp_path):
    images = crops(2)
    with torch.no_grad():
        expected = model(images)
    save_msid_pt(model, tmp_path / "msid.pt")
    model.save_pretrained(tmp_path / "folder")
    loaded = load_msid(tmp_path / "msid.pt", num_heads=4)
    sizes = ("patch_size", "width", "depth", "num_heads", "depths", "mlp_ratio", "image_size")
    assert [loaded.config[name] for name in sizes] == [model.config[name] for name in sizes]
    for again in (loaded, load_msid(tmp_path / "folder")):
        assert not again.training and not any(p.requires_grad for p in again.parameters())
        assert torch.equal(again(images), expected)
    assert not torch.allclose(
        load_msid(tmp_path / "msid.pt")(images), expected
    )  # one head of 32 channels, as published


def test_the_names_of_data_parallel_training_are_understood(model, tmp_path):
    state = {f"module.{name}": value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "msid.pt")
    loaded = load_msid(tmp_path / "msid.pt", num_heads=4)
    assert torch.equal(loaded(crops(1)), model(crops(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias is missing"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), "head.weight is unknown"),
        (
            lambda s: s.update({"blocks.2.norm1.weight": torch.zeros(5)}),
            r"norm1.weight has shape \[5\], expected \[32\]",
        ),
        (lambda s: s["cls_token"].fill_(float("nan")), "cls_token holds NaN"),
        (lambda s: s.pop("pos_embed"), "pos_embed is missing; these are not the weights of MSID"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 16, 32)}), "do not fit a square of patches"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("norms")], "no depth to read"),
        (lambda s: s.update({"norms.layer_7.0.weight": torch.zeros(32)}), "no depth to read"),
    ],
)
def test_other_tensors_are_refused_by_name(model, tmp_path, change, message):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "msid.pt")
    with pytest.raises(DamagedArtifactError, match=message):
        load_msid(tmp_path / "msid.pt", num_heads=4)


def test_files_that_are_no_tensors_are_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="weights of MSID"):
        load_msid(tmp_path / "none.pt")
    torch.save(model, tmp_path / "pickled.pt")  # a whole object: loading it would run what it says
    with pytest.raises(DamagedArtifactError, match="no file of tensors alone"):
        load_msid(tmp_path / "pickled.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DamagedArtifactError, match="holds list; expected tensors by name"):
        load_msid(tmp_path / "list.pt")
    with pytest.raises(DamagedArtifactError, match="do not load"):
        load_msid(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="multiple of 4 and of the 5 heads"):
        save_msid_pt(model, tmp_path / "msid.pt")
        load_msid(tmp_path / "msid.pt", num_heads=5)


def test_insightface_reads_the_file_and_agrees(model, tmp_path):
    path = tmp_path / "recognizer.onnx"
    path.write_bytes(onnx_bytes(model))
    loaded = open_onnx(path, threads=1)
    assert (loaded.input_mean, loaded.input_std, loaded.input_size) == (127.5, 127.5, (112, 112))
    images = pictures(5)
    with torch.no_grad():
        expected = model(crops(5)).numpy()
    blue_first = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    assert np.abs(loaded.get_feat(blue_first) - expected).max() < 1e-4
    assert np.abs(loaded.get_feat(blue_first[0]) - expected[:1]).max() < 1e-4  # any number of pictures
    assert np.abs(loaded.get_feat(list(images)) - expected).max() > 1e-2  # it sees which channel is which


def test_equal_weights_give_equal_bytes(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = load_checked(MSID, tmp_path).eval()
    assert onnx_bytes(model) == onnx_bytes(again)
    with torch.no_grad():
        again.cls_token[0, 0, 3] += 1e-3
    assert onnx_bytes(model) != onnx_bytes(again)


def test_subjects_are_embedded_alone(model):
    images = crops(5)
    found = embed_subjects(model, images)
    assert found.dtype == torch.float32 and torch.allclose(found[3:4], embed_subjects(model, images[3:4]), atol=1e-5)
    assert embed_subjects(model, images[:0]).shape == (0, 96)
    with pytest.raises(ValueError, match="training mode"):
        embed_subjects(model.train(), images)


def test_face_crops_bring_the_landmarks_to_the_template():
    template = recognizer_template(112)
    points = np.stack([template * 0.5 + 3, template * 0.4 + [2, 11]])
    images = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    for image, marks in zip(images, points, strict=True):
        rows, columns = np.mgrid[:64, :64]
        for channel, (x, y) in enumerate(marks[[0, 1, 2]]):  # a soft spot a channel: left eye, right eye, nose
            image[..., channel] = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    found = face_crops(images, points, size=112)
    weights = ((found + 1) / 2).double()
    weights /= weights.sum((2, 3), keepdim=True)
    places = torch.arange(112, dtype=torch.float64)
    centres = torch.stack([(weights.sum(2) * places).sum(2), (weights.sum(3) * places).sum(2)], dim=2)
    assert np.abs(centres.numpy() - template[:3]).max() < 0.1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 15}, "no whole number of patches"),
        ({"num_heads": 5}, "multiple of 4 and of the 5 heads"),
        ({"depths": [2, 5, 12, 14]}, "from 0 to 11"),
        ({"depths": [5, 2]}, "rising"),
        ({"depths": []}, "rising"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MSID(**{**PUBLISHED, **sizes})


def test_other_shapes_are_refused(model):
    with pytest.raises(ValueError, match=r"expected \(B, 3, 112, 112\)"):
        model(torch.zeros(1, 3, 128, 128))
