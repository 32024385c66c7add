"""Verification of a recogniser on every kind of data, against loops over pictures; and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from facegen.artifacts import sha256_file, write_json
from facegen.cli import OneLineErrors
from facegen.cli_verify import COMMANDS
from facegen.data.align import CANONICAL
from facegen.data.images import encode_png
from facegen.data.pair_bins import PairBin, write_pair_bin
from facegen.data.people_set import PeopleRows, encoded, write_people
from facegen.data.shards import FacesWriter
from facegen.metrics.verification import verification_report
from facegen.rng import numpy_generator
from facegen.verification_pairs import (
    PAIRS,
    PairEmbedder,
    PeopleFolder,
    benchmark_files,
    embed_pairs,
    pair_figures,
    people_figures,
    table_rows,
    verified,
)
from tests.data.test_face_embedder import write_onnx

SIDE = 112


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recogniser that says the mean colour of four cells of its crop."""
    made = tmp_path_factory.mktemp("models") / "recognizer-judge"
    made.mkdir()
    write_onnx(made / "recognizer.onnx")
    write_json(made / "recognizer.json", {"mean_landmarks": CANONICAL.tolist(), "thresholds": {}})
    return made


@pytest.fixture(scope="module")
def embedder(folder):
    return PairEmbedder.load(folder, threads=1)


def person(number: int, picture: int, side: int = SIDE) -> np.ndarray:
    """A person is the colours of an upper and a lower half, all different; a picture adds a little noise."""
    bits = np.array([(number + 1) >> bit & 1 for bit in range(6)]).reshape(2, 1, 1, 3)
    cells = 40 + 170 * np.broadcast_to(bits, (2, side // 2, side, 3)).reshape(side, side, 3)
    noise = numpy_generator(0, "picture", number, picture).normal(0, 6, (8, 8, 3)).repeat(side // 8, 0)
    return np.clip(cells + noise.repeat(side // 8, 1), 0, 255).astype(np.uint8)


def noise_pictures(num: int, side: int = SIDE) -> np.ndarray:
    cells = np.random.default_rng(0).integers(0, 256, (num, 2, 2, 3), dtype=np.uint8)
    return cells.repeat(side // 2, axis=1).repeat(side // 2, axis=2)


def brute_force_embedding(embedder: PairEmbedder, crop: np.ndarray) -> np.ndarray:
    """What the network says of a picture and of its mirror, added and scaled to unit length; one by one."""
    total = np.zeros(embedder.dim)
    for pixels in (crop, crop[:, ::-1]):
        blob = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32)
        total += embedder._model.forward(blob)[0]
    return total / np.sqrt((total**2).sum())


def test_aligned_pictures_are_seen_as_they_are(embedder):
    images = np.stack([person(number, 0) for number in (3, 9, 20)])
    images[0, :, :30] = 255  # lopsided: the mirror matters
    found = embedder.embed_aligned(images)
    assert np.allclose(found, [brute_force_embedding(embedder, image) for image in images], atol=1e-6)
    assert np.allclose(found, embedder.embed_aligned(images[:, :, ::-1]), atol=1e-6)
    assert not np.allclose(found[0], embedder.embed(images, None, flip=True)[0], atol=1e-3)
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    assert np.allclose(embedder.embed_aligned(large), found, atol=1e-2)  # insightface's template is off by a quarter px
    with pytest.raises(ValueError, match="multiple of 112"):
        embedder.embed_aligned(images[:, :64, :64])


def test_a_file_of_pairs_is_judged_as_loops_would(embedder, tmp_path):
    """7000 pairs of a noisy recogniser: folds, thresholds and embeddings, all done again the slow way."""
    rng = np.random.default_rng(1)
    faces = [person(number % 62, number // 62) for number in range(120)]
    order = rng.integers(0, 120, 14000)
    order[1::2] = np.where(rng.random(7000) < 0.45, (order[::2] + 62) % 120, order[1::2])
    same = order[::2] % 62 == order[1::2] % 62
    same ^= rng.random(7000) < 0.1  # some labels are wrong: nothing is perfect
    pngs = [encode_png(face) for face in faces]
    write_pair_bin(tmp_path / "cfp_fp.bin", [pngs[i] for i in order], same)
    vectors = np.array([brute_force_embedding(embedder, face) for face in faces])[order]
    distances = ((vectors[0::2] - vectors[1::2]) ** 2).sum(axis=1)
    accuracies = []
    for fold in range(10):
        tested = (np.arange(7000) >= 700 * fold) & (np.arange(7000) < 700 * (fold + 1))
        right = [((distances[~tested] < step / 100) == same[~tested]).sum() for step in range(400)]
        accuracies.append(((distances[tested] < right.index(max(right)) / 100) == same[tested]).mean())
    figures = pair_figures(embedder, PairBin.open(tmp_path / "cfp_fp.bin"), threads=1)
    assert figures["accuracy"]["value"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert figures["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1), abs=1e-9)
    assert 0.8 < figures["accuracy"]["value"] < 0.95 and (figures["pairs"], figures["pictures"]) == (7000, 120)
    above = (distances[same][:, None] < distances[~same]).mean() + (
        distances[same][:, None] == distances[~same]
    ).mean() / 2
    assert figures["auc"] == pytest.approx(above, abs=1e-3)


def test_a_random_recogniser_is_at_chance_and_a_separable_toy_at_one(embedder, tmp_path):
    rng = np.random.default_rng(2)
    pngs = encoded(noise_pictures(200))
    pictures = [pngs[i] for i in rng.integers(0, 200, 14000)]
    write_pair_bin(tmp_path / "random.bin", pictures, rng.permutation(np.arange(7000) < 3500))
    found = verified(embedder, tmp_path / "random.bin", framing="aligned", split="test", threads=1, seed=0)
    assert found["kind"] == "pairs" and abs(found["accuracy"]["value"] - 0.5) < 0.02
    assert abs(found["auc"] - 0.5) < 0.02 and found["sha256"] == sha256_file(tmp_path / "random.bin")
    toys = encoded(np.stack([person(number, number) for number in range(60)]))
    other = (np.arange(300) + rng.integers(1, 60, 300)) % 60
    same = np.arange(300) % 2 == 0
    second = np.where(same, np.arange(300) % 60, other)
    rows = np.stack([np.arange(300) % 60, second], axis=1).ravel()
    write_pair_bin(tmp_path / "toy.bin", [toys[i] for i in rows], same)
    toy = pair_figures(embedder, PairBin.open(tmp_path / "toy.bin"), threads=1)
    assert toy["accuracy"]["value"] == toy["auc"] == 1 and toy["equal_error_rate"] == 0 and toy["accuracy_std"] == 0


def test_every_picture_is_embedded_once_and_batches_do_not_show(embedder, tmp_path, monkeypatch):
    pngs = encoded(noise_pictures(5))
    rows = [0, 1, 2, 0, 4, 4, 3, 1]
    write_pair_bin(tmp_path / "a.bin", [pngs[i] for i in rows], [True, False, True, False])
    pairs, counted = PairBin.open(tmp_path / "a.bin"), []
    whole = embed_pairs(embedder, pairs, threads=1, on_done=counted.append)
    assert counted == [8] and np.array_equal(whole[0], whole[3]) and np.array_equal(whole[4], whole[5])
    assert np.allclose(whole, embedder.embed_aligned(noise_pictures(5))[rows], atol=1e-6)
    monkeypatch.setattr("facegen.verification_pairs.BATCH", 2)
    assert np.allclose(embed_pairs(embedder, pairs, threads=2, on_done=counted.append), whole, atol=1e-6)
    assert sum(counted) == 16


def write_people_folder(root, people: int, pictures: int, *, side: int = SIDE, margin: int = 0) -> None:
    for number in range(people):
        (root / f"p{number:02d}").mkdir(parents=True)
        for picture in range(pictures):
            square = person(number, picture, side)
            tall = np.pad(square, ((margin, margin), (0, 0), (0, 0)), constant_values=255)
            Image.fromarray(tall).save(root / f"p{number:02d}" / f"{picture}.png")


def test_a_folder_per_person_is_its_centred_squares(embedder, tmp_path):
    write_people_folder(tmp_path / "people", 12, 4, margin=20)
    pictures = PeopleFolder(tmp_path / "people", resolution=SIDE)
    assert np.array_equal(pictures.images([5], threads=1)[0], person(1, 1))
    assert pictures.identity.tolist() == np.repeat(np.arange(12), 4).tolist()
    figures = verified(embedder, tmp_path / "people", framing="aligned", split="test", threads=1, seed=3)
    assert figures.pop("kind") == "folder per person, framed as aligned"
    vectors = np.array([brute_force_embedding(embedder, person(n, k)) for n in range(12) for k in range(4)])
    expected = verification_report(vectors, np.repeat(np.arange(12), 4), rng=numpy_generator(3, PAIRS))
    assert figures["accuracy"]["value"] == pytest.approx(expected["accuracy"]["value"], abs=0.01)
    assert (figures["people"], figures["pictures"]) == (12, 48) and figures["auc"]["value"] > 0.99
    (tmp_path / "people/p03/2.png").write_bytes(b"spoilt")
    with pytest.raises(ValueError, match=r"p03/2\.png: not a JPEG"):
        people_figures(embedder, PeopleFolder(tmp_path / "people", resolution=SIDE), threads=1, seed=0)


def test_how_pictures_are_framed_matters_and_is_as_said(embedder, tmp_path):
    write_people_folder(tmp_path / "people", 4, 2)
    pictures = PeopleFolder(tmp_path / "people", resolution=SIDE)
    seen = []

    class Watched(PairEmbedder):
        def embed(self, images, landmarks, *, flip=False):
            seen.append(("face", landmarks, flip))
            return super().embed(images, landmarks, flip=flip)

        def embed_aligned(self, images):
            seen.append(("aligned",))
            return super().embed_aligned(images)

    write_onnx(tmp_path / "a.onnx")
    about = {"mean_landmarks": CANONICAL, "thresholds": {}}
    watched = Watched(tmp_path / "a.onnx", name="w", about=about, threads=1)
    for framing in ("face", "aligned"):
        people_figures(watched, pictures, framing=framing, threads=1, seed=0)
    assert seen == [("face", None, True), ("aligned",)]


def write_all_kinds(root) -> None:
    """The same twelve people in every layout."""
    write_people_folder(root / "people", 12, 4, side=64)
    images = np.stack([person(number, picture, 64) for number in range(12) for picture in range(4)])
    with FacesWriter(
        root / "faces", "test", resolution=64, attribute_names=[], sources={}, rows_per_shard=99
    ) as writer:
        for row, png in enumerate(encoded(images)):
            identity = row // 4 if row != 7 else -1
            writer.add(str(row), png, np.empty(0), identity, CANONICAL * 64)
    zeros, numbers = np.zeros(48, np.int64), np.arange(48)
    write_people(
        root / "people.parquet",
        PeopleRows(numbers // 4, numbers % 4, zeros, numbers, zeros.astype(np.float32), zeros, encoded(images)),
        resolution=64,
    )
    write_pair_bin(root / "lfw.bin", encoded(np.stack([person(n // 2, n % 2) for n in range(40)])), [True, False] * 10)


def app() -> typer.Typer:
    made = typer.Typer(cls=OneLineErrors)
    for command in COMMANDS:
        made.command()(command)
    made.callback()(lambda: None)
    return made


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(app(), ["verify", *map(str, arguments), "--threads", "1"])
    assert result.exit_code == code, result.output
    return result


def test_the_command_takes_every_kind_of_data(folder, embedder, tmp_path):
    write_all_kinds(tmp_path)
    places = [tmp_path / name for name in ("lfw.bin", "people", "faces", "people.parquet")]
    found = json.loads(run(folder, *places, "--json", "--framing", "face").stdout)
    assert found["recognizer"] == {"name": "recognizer-judge", "sha256": embedder.sha256}
    kinds = [found["data"][str(place)]["kind"] for place in places]
    assert kinds == ["pairs", "folder per person, framed as face", "faces (test)", "synthetic people"]
    figures = list(found["data"].values())
    assert [f["pictures"] for f in figures] == [40, 48, 47, 48]
    assert figures[3]["auc"]["value"] > 0.95 and figures[3]["people"] == 12
    alone = verified(embedder, places[2], framing="aligned", split="test", threads=1, seed=0)
    assert json.loads(json.dumps(alone)) == figures[2]  # the framing is only that of folders per person
    lines = run(folder / "recognizer.onnx", *places[:2]).stdout.splitlines()
    assert len(lines) == 3 and "accuracy %" in lines[0] and "framed as aligned" in lines[2]
    row = table_rows({"x": figures[0]})[0]
    assert row[4].startswith(f"{100 * figures[0]['accuracy']['value']:.2f} (") and row[8] == "-"  # 10 pairs, FAR 1e-3


def test_mistakes_are_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    cases = {
        (folder, tmp_path / "nowhere.bin"): "nowhere.bin does not exist",
        (folder, tmp_path / "empty"): "neither test-NNNNN.parquet nor a folder per person",
        (folder, tmp_path / "a.txt"): "expected NAME.bin",
        (folder, tmp_path / "b.bin"): "os.system, which is not allowed",
        (tmp_path / "empty", tmp_path / "b.bin"): "recognizer.json",
    }
    for arguments, reason in cases.items():
        output = run(*arguments, code=2).output
        assert reason in output and output.count("\n") == 1


def test_pairs_that_cannot_be_judged_name_their_file(embedder, tmp_path):
    write_pair_bin(tmp_path / "few.bin", encoded(noise_pictures(8)), [True, False, True, False])
    with pytest.raises(ValueError, match=r"few\.bin: 4 pairs in 10 folds"):
        pair_figures(embedder, PairBin.open(tmp_path / "few.bin"), threads=1)
    write_pair_bin(tmp_path / "small.bin", encoded(noise_pictures(24, side=64)), [True, False] * 6)
    with pytest.raises(ValueError, match=r"small\.bin: a recogniser's crop of 64 px"):
        pair_figures(embedder, PairBin.open(tmp_path / "small.bin"), threads=1)


def test_benchmarks_are_all_checked_before_anything_is_trained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"verify\.benchmarks"):
        benchmark_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no \.bin file"):
        benchmark_files(tmp_path)
    for name in ("lfw", "agedb_30"):
        write_pair_bin(tmp_path / f"{name}.bin", [b"a", b"b"], [True])
    assert [file.stem for file in benchmark_files(tmp_path)] == ["agedb_30", "lfw"]
    (tmp_path / "calfw.bin").write_bytes(b"spoilt")
    with pytest.raises(ValueError, match=r"calfw\.bin"):
        benchmark_files(tmp_path)
