"""Zips from elsewhere: every unsafe entry is refused before a byte is read; a folder of equal pictures is equal."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

import pytest

from facegen.data import archive
from facegen.data.archive import list_pictures, read_picture, unsafe_name
from facegen.data.images import ImageError

FILES = {f"img_align_celeba/{i:06d}.jpg": random.Random(i).randbytes(500 + i) for i in range(1, 9)}


def make_zip(path: Path, files: dict[str, bytes] | list, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in files.items() if isinstance(files, dict) else files:
            target.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pictures_are_read_from_the_zip_as_it_is(tmp_path: Path, method: int) -> None:
    place = make_zip(tmp_path / "a.zip", FILES | {"img_align_celeba/": b""}, method)
    pictures = list_pictures(place)
    assert list(pictures.by_name) == [name.split("/")[1] for name in FILES] and pictures.notes == []
    for name, data in FILES.items():
        assert read_picture(place, pictures.by_name[name.split("/")[1]]) == data
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_zip_folder_and_order_make_no_difference(tmp_path: Path) -> None:
    first = list_pictures(make_zip(tmp_path / "a.zip", FILES))
    shuffled = random.Random(0).sample(sorted(FILES.items()), len(FILES))
    second = list_pictures(make_zip(tmp_path / "b.zip", shuffled, zipfile.ZIP_DEFLATED))
    folder = tmp_path / "folder"
    (folder / "img_align_celeba").mkdir(parents=True)
    for name, data in shuffled:
        (folder / name).write_bytes(data)
    third = list_pictures(folder)
    assert first.digest() == second.digest() == third.digest()
    assert list(first.by_name) == list(second.by_name) == list(third.by_name)
    assert read_picture(folder, third.by_name["000003.jpg"]) == FILES["img_align_celeba/000003.jpg"]
    (folder / "img_align_celeba/000003.jpg").write_bytes(b"other")
    assert list_pictures(folder).digest() != first.digest()


def test_litter_is_ignored_and_other_files_are_noted(tmp_path: Path) -> None:
    extra = {"__MACOSX/img/._000001.jpg": b"x", "img/.DS_Store": b"x", "img/readme.txt": b"x"}
    pictures = list_pictures(make_zip(tmp_path / "a.zip", FILES | extra))
    assert len(pictures.by_name) == 8
    assert pictures.notes == ["a.zip: passed over 1 files that are no pictures (first: img/readme.txt)"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../evil.jpg", "has '..'"),
        ("img/../../evil.jpg", "has '..'"),
        ("/etc/evil.jpg", "is absolute"),
        ("C:/evil.jpg", "is absolute"),
        ("img\\evil.jpg", "has a backslash"),
        ("img//evil.jpg", "has an empty part"),
        ("./evil.jpg", "has an empty part"),
        ("evil\n.jpg", "has control characters"),
    ],
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    assert unsafe_name(name) == problem
    with pytest.raises(ValueError, match=problem):
        list_pictures(make_zip(tmp_path / "a.zip", FILES | {name: b"x"}))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"] and not (tmp_path.parent / "evil.jpg").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("img/link.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match=r"'img/link\.jpg' is a symbolic link"):
        list_pictures(make_zip(tmp_path / "a.zip", [(link, "/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_and_case_collisions_are_refused_together(tmp_path: Path) -> None:
    entries = [("a/1.jpg", b"1"), ("a/1.jpg", b"2"), ("a/2.JPG", b"3"), ("a/2.jpg", b"4")]
    with pytest.raises(ValueError, match=r"'a/1.jpg' is there twice; entry 'a/2.jpg' is there twice \(as 'a/2.JPG'\)"):
        list_pictures(make_zip(tmp_path / "a.zip", entries))
    with pytest.raises(ValueError, match=r"'a/1\.jpg' and 'b/1\.jpg' have the same file name"):
        list_pictures(make_zip(tmp_path / "b.zip", [("a/1.jpg", b"1"), ("b/1.jpg", b"2")]))


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "a.zip", {"1.jpg": b"secret"}).read_bytes())
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"'1.jpg' is encrypted"):
        list_pictures(tmp_path / "a.zip")


def test_other_packing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only stored and deflated"):
        list_pictures(make_zip(tmp_path / "a.zip", {"1.jpg": b"x" * 99}, zipfile.ZIP_LZMA))


def test_a_zip_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    place = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    assert place.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"expands 10\d\d times"):
        list_pictures(place)


def test_totals_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    monkeypatch.setattr(archive, "MAX_ENTRY_BYTES", 507)
    with pytest.raises(ValueError, match=r"'img_align_celeba/000008.jpg' has .*8 entries; at most 5.*it expands to"):
        list_pictures(place)


def test_a_directory_that_lies_about_sizes_is_found_out(tmp_path: Path) -> None:
    place = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(60_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(place.read_bytes())
    at = data.find(b"PK\x01\x02") + 24
    data[at : at + 4] = (10).to_bytes(4, "little")
    place.write_bytes(data)
    with pytest.raises(ImageError, match=r"do not match their checksum \(11 bytes, 10 expected\)"):
        read_picture(place, list_pictures(place).by_name["1.jpg"])


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    place = make_zip(tmp_path / "a.zip", {"1.jpg": bytes(1000), "2.jpg": bytes(1000)})
    data = bytearray(place.read_bytes())
    at = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 4)
    for field in (20, 24):
        data[at + field : at + field + 4] = (5000).to_bytes(4, "little")
    place.write_bytes(data)
    with pytest.raises(ValueError, match="entries overlap"):
        list_pictures(place)


def test_a_flipped_bit_is_told_by_the_checksum(tmp_path: Path) -> None:
    place = make_zip(tmp_path / "a.zip", FILES)
    data = bytearray(place.read_bytes())
    data[data.find(FILES["img_align_celeba/000004.jpg"]) + 100] ^= 1
    place.write_bytes(data)
    pictures = list_pictures(place)
    assert read_picture(place, pictures.by_name["000003.jpg"]) == FILES["img_align_celeba/000003.jpg"]
    with pytest.raises(ImageError, match="checksum"):
        read_picture(place, pictures.by_name["000004.jpg"])


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes | None) -> None:
    place = make_zip(tmp_path / "a.zip", FILES)
    place.write_bytes(place.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ValueError, match="not a whole zip archive"):
        list_pictures(place)


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_pictures(tmp_path / "none.zip")
    with pytest.raises(ValueError, match="holds no picture"):
        list_pictures(make_zip(tmp_path / "a.zip", {"readme.txt": b"x"}))


def test_a_file_gone_since_listing_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    pictures = list_pictures(tmp_path)
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_picture(tmp_path, pictures.by_name["1.jpg"])


def test_zips_behind_other_bytes_are_read(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as target:
        target.writestr("ä/1.jpg", b"abc")
    (tmp_path / "a.zip").write_bytes(b"stub" * 10 + inner.getvalue())
    pictures = list_pictures(tmp_path / "a.zip")
    assert read_picture(tmp_path / "a.zip", pictures.by_name["1.jpg"]) == b"abc"
