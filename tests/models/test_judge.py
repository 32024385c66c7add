"""The judge: its features as a perceptual distance, and its folder."""

import pytest
import torch
from torch.nn import functional as F

from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge, perceptual_distance
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling"]


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


def test_folder_keeps_names_thresholds_and_logits(judge, tmp_path):
    judge.save_pretrained(tmp_path)
    loaded = AttributeJudge.from_pretrained(tmp_path)
    assert list(loaded.config.attribute_names) == NAMES
    assert list(loaded.config.thresholds) == [0.5, 0.4]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(smooth_faces()), judge(smooth_faces()))


def test_wrong_shapes_are_refused(judge):
    with pytest.raises(ValueError, match="multiples of 16"):
        judge.features(torch.zeros(1, 3, 40, 64))
