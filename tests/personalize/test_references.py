"""Where the face of a reference photograph is looked for, and what is said when it is not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.data.align import CANONICAL, RECOGNIZER_TEMPLATE, face_crops
from facegen.models.initialize import draw_weights
from facegen.models.msid import MSID, embed_subjects
from facegen.personalize.references import FaceFinder, person_features, person_pictures, reference_crop
from facegen.rng import torch_generator

FACE = np.array([[20.0, 25], [34, 25], [27, 33], [21, 40], [33, 40]])


@dataclass(frozen=True)
class Found:
    landmarks: np.ndarray


def photograph(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop(finder: FaceFinder, pixels: np.ndarray | None = None) -> torch.Tensor:
    return reference_crop(photograph() if pixels is None else pixels, finder, size=112, max_megapixels=1, name="p.png")


def test_the_template_in_its_own_crop_is_the_picture() -> None:
    pixels = photograph(112, 112)
    found = crop(FaceFinder(CANONICAL, points=RECOGNIZER_TEMPLATE), pixels)
    assert found.shape == (1, 3, 112, 112)
    assert torch.allclose((found[0].permute(1, 2, 0) + 1) * 127.5, torch.from_numpy(pixels).float(), atol=0.01)


def test_given_landmarks_and_found_ones_agree_and_the_largest_face_is_told() -> None:
    said: list[str] = []
    expected = face_crops(photograph()[None], FACE[None], size=112)
    assert torch.equal(crop(FaceFinder(CANONICAL, points=FACE)), expected)
    assert torch.equal(crop(FaceFinder(CANONICAL, points={"other.png": FACE + 3, "p.png": FACE})), expected)
    one = FaceFinder(CANONICAL, detect=lambda _: [Found(FACE)], tell=said.append)
    assert torch.equal(crop(one), expected)
    assert not said
    two = FaceFinder(CANONICAL, detect=lambda _: [Found(FACE), Found(FACE / 2)], tell=said.append)
    assert torch.equal(crop(two), expected)
    assert said == ["p.png: 2 faces found; the largest one is taken"]


def test_a_square_face_is_framed_as_the_data_are() -> None:
    pixels = photograph(64, 64)
    found = crop(FaceFinder(CANONICAL), pixels)
    assert torch.equal(found, face_crops(pixels[None], (CANONICAL * 64 - 0.5)[None], size=112))
    with pytest.raises(ValueError, match=r"p\.png: 80x60 px; without landmarks"):
        crop(FaceFinder(CANONICAL))


def test_no_face_and_impossible_landmarks_name_the_photograph(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.png: no face found"):
        crop(FaceFinder(CANONICAL, detect=lambda _: []))
    with pytest.raises(ValueError, match=r"p\.png: the list of landmarks does not name it"):
        crop(FaceFinder(CANONICAL, points={"q.png": FACE}))
    with pytest.raises(ValueError, match=r"p\.png: landmarks .* lie outside its 80x60 px"):
        crop(FaceFinder(CANONICAL, points=FACE + 200))
    with pytest.raises(ValueError, match=r"p\.png.*coincide"):
        crop(FaceFinder(CANONICAL, points=np.full((5, 2), 30.0)))
    path = tmp_path / "who.png"
    Image.fromarray(photograph()).save(path)
    with pytest.raises(ValueError, match=r"who\.png: no face found"):
        reference_crop(path, FaceFinder(CANONICAL, detect=lambda _: []), size=112, max_megapixels=1)
    with pytest.raises(ValueError, match="megapixels"):
        reference_crop(path, FaceFinder(CANONICAL), size=112, max_megapixels=0.001)
    with pytest.raises(ValueError, match=r"p\.png is float64"):
        crop(FaceFinder(CANONICAL), photograph().astype(np.float64))


def test_several_pictures_of_a_person_give_the_mean(tmp_path: Path) -> None:
    msid = MSID(image_size=112, patch_size=28, width=16, depth=2, num_heads=2, depths=[0, 1], mlp_ratio=2.0)
    draw_weights(msid, torch_generator(0, "msid"))
    msid.eval()
    crops = [crop(FaceFinder(CANONICAL, points=FACE + shift)) for shift in (0.0, 4.0)]
    alone = torch.stack([person_features(msid, [own]) for own in crops])
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.allclose(alone[0], embed_subjects(msid, crops[0])[0])
    assert torch.allclose(person_features(msid, crops), alone.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="at least one picture"):
        person_features(msid, [])


def test_the_pictures_of_a_person_are_a_file_or_a_folder(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in person_pictures(tmp_path)] == ["a.PNG", "b.jpg"]
    assert person_pictures(tmp_path / "b.jpg") == [tmp_path / "b.jpg"]
    with pytest.raises(FileNotFoundError, match="no such photograph"):
        person_pictures(tmp_path / "c.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        person_pictures(tmp_path / "empty")
