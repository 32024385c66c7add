"""The source: what is there is read, what is missing is said, what does not fit together is refused with the ids."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from facegen.data.celeba import Source, read_celeba, require_disjoint, seeded_split

NAMES = ("Male", "Smiling", "Bald")
NUMBER = 40
DRAW = random.Random(3)
IDS = [f"{i:06d}.jpg" for i in range(1, NUMBER + 1)]
BYTES = {id: DRAW.randbytes(60) for id in IDS}
STATES = {id: [DRAW.choice((-1, 1)) for _ in NAMES] for id in IDS}
PERSON = {id: i // 4 + 1 for i, id in enumerate(IDS)}  # ten people
SPLIT = {id: (0 if PERSON[id] <= 6 else 1 if PERSON[id] <= 8 else 2) for id in IDS}
MARKS = {id: [DRAW.randint(0, 170) for _ in range(10)] for id in IDS}
MARK_NAMES = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def make_source(
    root: Path,
    *,
    order: list[str] = IDS,
    lists: tuple[str, ...] = ("identity", "landmarks", "partition"),
    zipped: bool = True,
) -> Path:
    """Write a source whose files list the pictures in the given order."""
    root.mkdir(parents=True, exist_ok=True)
    if zipped:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as target:
            for id in order:
                target.writestr(f"img_align_celeba/{id}", BYTES[id])
    else:
        (root / "img_align_celeba").mkdir()
        for id in order:
            (root / "img_align_celeba" / id).write_bytes(BYTES[id])

    def put(name: str, head: str, values: dict) -> None:
        rows = [
            f"{id} {' '.join(map(str, values[id] if isinstance(values[id], list) else [values[id]]))}" for id in order
        ]
        (root / name).write_text(head + "\n".join(rows) + "\n")

    put("list_attr_celeba.txt", f"{NUMBER}\n{' '.join(NAMES)}\n", STATES)
    if "identity" in lists:
        put("identity_CelebA.txt", "", PERSON)
    if "landmarks" in lists:
        put("list_landmarks_align_celeba.txt", f"{NUMBER}\n{MARK_NAMES}\n", MARKS)
    if "partition" in lists:
        put("list_eval_partition.txt", "", SPLIT)
    return root


def read(root: Path, attributes: object = "all", seed: int = 0) -> Source:
    return read_celeba(root, attributes=attributes, val_fraction=0.2, test_fraction=0.2, seed=seed)  # type: ignore[arg-type]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_complete_source_is_read(tmp_path: Path) -> None:
    source = read(make_source(tmp_path))
    assert source.ids == tuple(IDS) and source.attribute_names == NAMES and source.notes == []
    assert source.attributes.tolist() == [[max(0, v) for v in STATES[id]] for id in IDS]
    assert source.identity.tolist() == list(PERSON.values()) and source.identity.dtype == np.int32
    assert source.split.tolist() == list(SPLIT.values())
    assert source.landmarks is not None and source.landmarks.shape == (NUMBER, 5, 2)
    assert source.landmarks.reshape(NUMBER, 10).tolist() == list(MARKS.values())


def test_order_place_and_packing_change_nothing(tmp_path: Path) -> None:
    first = read(make_source(tmp_path / "a"))
    shuffled = random.Random(1).sample(IDS, NUMBER)
    for number, zipped in enumerate((True, False)):
        other = read(make_source(tmp_path / f"moved {number}", order=shuffled, zipped=zipped))
        assert other.ids == first.ids and other.digests == first.digests
        assert np.array_equal(other.attributes, first.attributes) and np.array_equal(other.split, first.split)
        assert np.array_equal(other.identity, first.identity)


def test_digests_follow_the_content(tmp_path: Path) -> None:
    first = read(make_source(tmp_path)).digests
    edit(tmp_path / "list_landmarks_align_celeba.txt", f"000007.jpg {MARKS['000007.jpg'][0]}", "000007.jpg 171")
    second = read(tmp_path).digests
    assert {name for name in first if first[name] != second[name]} == {"list_landmarks_align_celeba"}


def test_attributes_are_chosen_by_name(tmp_path: Path) -> None:
    source = read(make_source(tmp_path), ("Bald", "Male"))
    assert source.attribute_names == ("Bald", "Male")
    assert source.attributes.tolist() == [[max(0, STATES[id][2]), max(0, STATES[id][0])] for id in IDS]


def test_unknown_attributes_are_told_together_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'Smilling'; did you mean Smiling\?.*'Hat'.*has: Male, Smiling, Bald"):
        read(make_source(tmp_path), ("Male", "Smilling", "Hat"))
    with pytest.raises(ValueError, match="twice"):
        read(tmp_path, ("Male", "Male"))


def test_missing_lists_are_said_loudly(tmp_path: Path) -> None:
    source = read(make_source(tmp_path, lists=()))
    assert source.landmarks is None and (source.identity == -1).all()
    told = "\n".join(source.notes)
    for part in (
        "no identity_CelebA: ",
        "no list_landmarks_align_celeba: ",
        "no list_eval_partition: splits drawn by seed 0",
    ):
        assert part in told
    assert "a person may be in several" in told


def test_csv_lists_are_read_and_text_goes_first(tmp_path: Path) -> None:
    text = read(make_source(tmp_path))
    for name in ("list_attr_celeba", "list_landmarks_align_celeba"):
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()[1:]
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(",".join(["image_id"] * (i == 0) + row.split()) for i, row in enumerate(lines))
        )
    for name, column in (("identity_CelebA", "identity"), ("list_eval_partition", "partition")):
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()
        (tmp_path / f"{name}.csv").write_text(
            f"image_id,{column}\n" + "\n".join(",".join(row.split()) for row in lines)
        )
    assert "both list_attr_celeba.txt and list_attr_celeba.csv exist: the first is read" in read(tmp_path).notes
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    csv = read(tmp_path)
    assert csv.notes == [] and csv.digests == text.digests
    assert np.array_equal(csv.attributes, text.attributes) and np.array_equal(csv.split, text.split)


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: .*nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither img_align_celeba.zip nor the folder img_align_celeba/"):
        read(tmp_path)
    make_source(tmp_path)
    (tmp_path / "list_attr_celeba.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither list_attr_celeba.txt nor list_attr_celeba.csv"):
        read(tmp_path)


def test_the_zip_goes_before_the_folder(tmp_path: Path) -> None:
    make_source(tmp_path, zipped=False)
    source = read(make_source(tmp_path))
    assert source.pictures.place.name == "img_align_celeba.zip"
    assert source.notes == ["both img_align_celeba.zip and img_align_celeba/ exist: the zip is read"]


@pytest.mark.parametrize("name", ["list_attr_celeba", "identity_CelebA", "list_eval_partition"])
def test_rows_without_picture_and_pictures_without_row(tmp_path: Path, name: str) -> None:
    make_source(tmp_path)
    line = IDS.index("000005.jpg") + (3 if name == "list_attr_celeba" else 1)
    edit(tmp_path / f"{name}.txt", "000005.jpg", "900005.jpg")
    with pytest.raises(ValueError, match=rf"{name}.txt, line {line}, column 1: .*holds no 900005.jpg"):
        read(tmp_path)
    lines = [line for line in (tmp_path / f"{name}.txt").read_text().splitlines() if not line.startswith("900005")]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines).replace("40\n", "39\n", 1))
    with pytest.raises(ValueError, match=rf"{name}.txt has no row for 000005.jpg of .*img_align_celeba.zip"):
        read(tmp_path)


def test_another_suffix_is_pointed_out(tmp_path: Path) -> None:
    make_source(tmp_path, zipped=False)
    (tmp_path / "img_align_celeba/000002.jpg").rename(tmp_path / "img_align_celeba/000002.png")
    with pytest.raises(ValueError, match=r"holds no 000002.jpg, but 000002.png"):
        read(tmp_path)


def test_a_person_in_two_splits_is_refused_with_the_ids(tmp_path: Path) -> None:
    make_source(tmp_path)
    edit(tmp_path / "list_eval_partition.txt", "000002.jpg 0", "000002.jpg 2")
    edit(tmp_path / "list_eval_partition.txt", "000040.jpg 2", "000040.jpg 1")
    message = (
        r"2 identities .*: 1 \(000001.jpg in train, 000002.jpg in test\); 10 \(000037.jpg in test, 000040.jpg in val\)"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_unknown_people_may_be_anywhere() -> None:
    require_disjoint(["a", "b"], np.array([-1, -1]), np.array([0, 2]))


def test_the_drawn_split_is_identity_disjoint_and_has_the_wanted_shares(tmp_path: Path) -> None:
    source = read(make_source(tmp_path, lists=("identity",)))
    assert [(source.split == s).sum() for s in range(3)] == [24, 8, 8]
    require_disjoint(source.ids, source.identity, source.split)
    assert "splits drawn by seed 0 (identity-disjoint)" in " ".join(source.notes)
    assert not np.array_equal(source.split, read(tmp_path, seed=1).split)
    assert np.array_equal(source.split, read(tmp_path).split)


def test_copies_of_a_file_stay_together_where_people_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id in IDS[20:]:
        monkeypatch.setitem(BYTES, id, BYTES[IDS[IDS.index(id) - 20]])
    split = read(make_source(tmp_path, lists=())).split
    assert np.array_equal(split[:20], split[20:]) and len(set(split.tolist())) == 3


def test_the_drawn_split_does_not_depend_on_order() -> None:
    groups = [(i * 7 % 30,) for i in range(300)]
    split = dict(zip(groups, seeded_split(groups, val_fraction=0.1, test_fraction=0.2, seed=5).tolist(), strict=True))
    backwards = seeded_split(groups[::-1], val_fraction=0.1, test_fraction=0.2, seed=5)[::-1]
    assert backwards.tolist() == [split[g] for g in groups]
    with pytest.raises(ValueError, match="left to train on"):
        seeded_split(groups, val_fraction=0.5, test_fraction=0.5, seed=5)


def test_one_person_alone_is_trained_on() -> None:
    assert seeded_split([(1,)] * 9, val_fraction=0.3, test_fraction=0.3, seed=0).tolist() == [0] * 9


def test_an_empty_split_is_noted(tmp_path: Path) -> None:
    make_source(tmp_path)
    path = tmp_path / "list_eval_partition.txt"
    path.write_text(path.read_text().replace(".jpg 1\n", ".jpg 0\n"))
    assert read(tmp_path).notes == ["the val split is empty"]
