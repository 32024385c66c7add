"""The files of the drawn data set: CelebA's formats, and the same bytes for any number of processes."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.config import load_params
from facegen.data.celeba_layout import write_lists
from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.data.procedural import Population, sample_population
from facegen.data.render import render_dataset

RENDER = load_params(Path(__file__).parents[2] / "params.yaml").render
PEOPLE, PICTURES = 12, 12


@pytest.fixture(scope="module")
def population() -> Population:
    return sample_population(
        seed=3,
        num_identities=PEOPLE,
        images_per_identity=PICTURES,
        val_fraction=0.1,
        test_fraction=0.2,
        prevalence=RENDER.prevalence,
        persistence=RENDER.persistence,
        correlations=RENDER.correlations,
    )


def render(folder: Path, population: Population, *, workers: int) -> list[int]:
    folder.mkdir()
    told: list[int] = []
    render_dataset(
        folder,
        population,
        resolution=48,
        supersample=1,
        jpeg_quality=95,
        workers=workers,
        on_drawn=told.append,
    )
    return told


@pytest.fixture(scope="module")
def folder(population: Population, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("render") / "one"
    assert sum(render(folder, population, workers=1)) == PEOPLE * PICTURES
    return folder


def test_bytes_do_not_depend_on_the_number_of_processes(folder: Path, population: Population) -> None:
    other = folder.parent / "two"
    render(other, population, workers=2)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        digests = [hashlib.sha256((each / name).read_bytes()).hexdigest() for each in (folder, other)]
        assert digests[0] == digests[1], name


def test_zip_holds_every_picture_in_order_as_full_colour_jpeg(folder: Path) -> None:
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        names = archive.namelist()
        assert names == [f"img_align_celeba/{number:06d}.jpg" for number in range(1, PEOPLE * PICTURES + 1)]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.testzip() is None
        picture = Image.open(io.BytesIO(archive.read(names[0])))
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (48, 48))
        assert all(layer[1:3] == (1, 1) for layer in picture.layer)  # no subsampling of colour


def test_lists_have_the_published_format_and_agree(folder: Path, population: Population) -> None:
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == str(PEOPLE * PICTURES)
    assert lines[1].split() == list(FACE_ATTRIBUTES)
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == [f"{number:06d}.jpg" for number in range(1, PEOPLE * PICTURES + 1)]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=int), 2 * population.attributes.astype(int) - 1)

    lines = (folder / "list_landmarks_align_celeba.txt").read_text().splitlines()
    header = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    assert lines[0] == str(PEOPLE * PICTURES)
    assert lines[1] == header
    points = np.array([line.split()[1:] for line in lines[2:]], dtype=int)
    assert points.shape == (PEOPLE * PICTURES, 10)
    assert points.min() >= 0
    assert points.max() < 48

    identity = [line.split() for line in (folder / "identity_CelebA.txt").read_text().splitlines()]
    split = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines()]
    assert [row[0] for row in identity] == [row[0] for row in split] == [row[0] for row in rows]
    assert {int(row[1]) for row in identity} == set(range(1, PEOPLE + 1))
    person_to_split = {(who[1], part[1]) for who, part in zip(identity, split, strict=True)}
    assert len(person_to_split) == PEOPLE


def test_arrays_of_different_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"landmarks has shape \(3, 5, 2\), it must be \(4, 5, 2\)"):
        write_lists(
            tmp_path,
            attribute_names=["Male"],
            attributes=np.zeros((4, 1), dtype=np.int8),
            identity=np.zeros(4, dtype=np.int32),
            landmarks=np.zeros((3, 5, 2)),
            split=np.zeros(4, dtype=np.int8),
        )
