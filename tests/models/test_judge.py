"""The judges: features as a perceptual distance, two architectures with one interface, and their folders."""

import json

import pytest
import torch
from torch.nn import functional as F

from facegen.errors import DamagedArtifactError
from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge, calibrated, perceptual_distance
from facegen.models.judges import ARCHITECTURES, WEIGHTS, build_judge, load_judge
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling"]
GOLDEN = [
    0.1445767,
    0.1101235,
    -0.0183798,
]  # judge a is not drawn anew by accident: every stage that uses it would change


@pytest.fixture
def judge() -> AttributeJudge:
    model = AttributeJudge(attribute_names=NAMES, width=16, thresholds=[0.5, 0.4])
    draw_weights(model, torch_generator(0, "judge"))
    return model.eval()


def smooth_faces(count: int = 3, side: int = 64) -> torch.Tensor:
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch_generator(0, "faces")) * 2 - 1
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(-1, 1)


def blur(images: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images


def test_feature_maps_halve_from_level_to_level(judge):
    maps = judge.features(smooth_faces())
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 4, 4)]
    assert judge(smooth_faces()).shape == (3, 2)


def test_perceptual_distance_is_zero_for_equal_and_grows_with_blur(judge):
    images = smooth_faces()
    with torch.no_grad():
        features = judge.features(images)
        distances = [float(perceptual_distance(judge.features(blur(images, n)), features)) for n in (0, 1, 4)]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]


def test_perceptual_distance_does_not_depend_on_the_scale_of_features(judge):
    with torch.no_grad():
        a, b = judge.features(smooth_faces()), judge.features(blur(smooth_faces(), 2))
    scaled = perceptual_distance([7 * x for x in a], [7 * x for x in b])
    assert torch.isclose(scaled, perceptual_distance(a, b), rtol=1e-2)


def made(architecture: str) -> torch.nn.Module:
    model = build_judge(architecture, attribute_names=NAMES, width=16)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5, 0.4], temperatures=[2.0, 0.5], resolution=64)
    return model.eval()


both = pytest.mark.parametrize("architecture", list(ARCHITECTURES))


def test_the_first_weights_of_the_residual_judge_are_pinned():
    model = build_judge("residual", attribute_names=NAMES, width=8)
    draw_weights(model, torch_generator(0, "judge a weights"))
    assert model.head.weight[0, :3].tolist() == pytest.approx(GOLDEN, rel=1e-5)


@both
def test_logits_are_the_head_on_the_embedding_at_any_size(architecture):
    model, images = made(architecture), smooth_faces()
    with torch.no_grad():
        rows = model.embed(images)
        assert rows.shape == (3, model.dim)
        assert torch.equal(model.head(rows), model(images))
        assert model.embed(smooth_faces(side=96)).shape == rows.shape
        assert (rows[0] - rows[1]).abs().max() > 1e-3


@both
def test_a_picture_does_not_depend_on_its_batch(architecture):
    model, images = made(architecture), smooth_faces()
    with torch.no_grad():
        assert torch.allclose(model(images)[1:2], model(images[1:2]), atol=1e-5)


def test_the_architectures_share_nothing_but_their_interface():
    kinds = [{type(m) for m in made(name).modules()} for name in ARCHITECTURES]
    assert torch.nn.BatchNorm2d in kinds[0] and torch.nn.BatchNorm2d not in kinds[1]
    first, second = (made(name) for name in ARCHITECTURES)
    assert (first.dim, second.dim) == (4 * 16, 8 * 16)
    assert {m.groups for m in second.modules() if isinstance(m, torch.nn.Conv2d)} == {1, 16, 32, 64}


def test_the_convnext_pools_mean_and_maximum_of_normalised_positions():
    model = made("convnext")
    with torch.no_grad():
        mean, most = model.embed(smooth_faces()).chunk(2, dim=1)
        assert (most >= mean).all() and (most > mean).any()
        torch.testing.assert_close(
            mean.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0
        )  # the last norm has no offset yet


@both
def test_probabilities_are_of_logits_over_temperatures(architecture):
    logits = torch.tensor([[2.0, -1.0]])
    expected = 1 / (1 + torch.exp(torch.tensor([[-1.0, 2.0]])))
    torch.testing.assert_close(made(architecture).probabilities(logits), expected)
    assert torch.equal(calibrated(logits, None), logits.sigmoid())


@both
def test_folder_keeps_configuration_and_logits(architecture, tmp_path):
    model = made(architecture)
    model.save_pretrained(tmp_path)
    loaded = load_judge(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert list(loaded.config.attribute_names) == NAMES and list(loaded.config.thresholds) == [0.5, 0.4]
    assert list(loaded.config.temperatures) == [2.0, 0.5] and loaded.config.resolution == 64
    with torch.no_grad():
        assert torch.equal(loaded(smooth_faces()), model(smooth_faces()))


def test_folders_without_a_whole_judge_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the judge stage"):
        load_judge(tmp_path)
    (tmp_path / "accuracy.json").write_text(json.dumps({"absent": "the data name no attributes"}))
    with pytest.raises(ValueError, match="holds no judge: the data name no attributes"):
        load_judge(tmp_path)
    model = made("convnext")
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(DamagedArtifactError, match=r"head\.bias holds NaN or infinity"):
        load_judge(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(DamagedArtifactError, match="do not load"):
        load_judge(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "LatentDiT"}))
    with pytest.raises(ValueError, match="LatentDiT; allowed: AttributeJudge, ConvNextJudge"):
        load_judge(tmp_path)


@both
def test_wrong_shapes_are_refused(architecture):
    with pytest.raises(ValueError, match="multiples of 16"):
        made(architecture).embed(torch.zeros(1, 3, 40, 64))


def test_wrong_architectures_and_no_attributes_are_refused():
    with pytest.raises(ValueError, match="allowed: residual, convnext"):
        build_judge("vit", attribute_names=NAMES, width=8)
    with pytest.raises(ValueError, match="at least one attribute"):
        build_judge("convnext", attribute_names=[], width=8)


def test_the_convnext_embeds_as_its_layers_in_a_row_bit_for_bit():
    model, images = made("convnext"), smooth_faces()
    with torch.no_grad():
        x = model.norms[0](model.stem[1](torch.nn.functional.gelu(model.stem[0](images))))
        x = model.stages[0](x)
        for norm, halve, stage in zip(model.norms[1:-1], model.halve, model.stages[1:], strict=True):
            x = stage(halve(norm(x)))
        maps = model.features(images)
        assert torch.equal(maps[-1], x)
        x = model.norms[-1](x)
        assert torch.equal(model.embed(images), torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))
    side, width = images.shape[-1], 16
    expected = [(width // 2, side // 2), (width, side // 4), (2 * width, side // 8), (4 * width, side // 16)]
    assert [(m.shape[1], m.shape[2]) for m in maps] == expected


@both
def test_maps_of_other_sizes_are_refused(architecture):
    with pytest.raises(ValueError, match="multiples of 16"):
        made(architecture).features(torch.zeros(1, 3, 40, 64))
