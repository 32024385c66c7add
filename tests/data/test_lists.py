"""CelebA's lists: what is well meant is read, and every fault is told with its exact line and column."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from facegen.data.lists import LANDMARK_COLUMNS, read_attributes, read_landmarks, read_numbers

TEXT = "3\nMale Smiling  Bald\n000001.jpg -1  1 -1\n000002.jpg  1  1 -1\n000003.jpg -1 -1  1\n"
CSV = "image_id,Male,Smiling,Bald\n000001.jpg,-1,1,-1\n000002.jpg,1,1,-1\n000003.jpg,-1,-1,1\n"
VALUES = [[0, 1, 0], [1, 1, 0], [0, 0, 1]]


def put(folder: Path, text: str | bytes, name: str = "list_attr_celeba.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TEXT, "a.txt"),
        (CSV, "a.csv"),
        (TEXT.replace("-1", "0"), "a.txt"),
        (CSV.replace("-1", "0"), "a.csv"),
        (TEXT.replace("\n", "\r\n"), "a.txt"),
        (CSV.replace("\n", "\r\n"), "a.csv"),
        ("\ufeff" + TEXT, "a.txt"),
        ("\ufeff" + CSV, "a.csv"),
        (TEXT.rstrip("\n"), "a.txt"),
        (TEXT + "\n\n", "a.txt"),
        (CSV.replace(",", " , "), "a.csv"),
    ],
)
def test_every_well_meant_form_is_read(tmp_path: Path, text: str, name: str) -> None:
    table = read_attributes(put(tmp_path, text, name))
    assert table.columns == ("Male", "Smiling", "Bald") and table.values.dtype == np.int8
    assert table.values.tolist() == VALUES and list(table.lines) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert table.lines["000002.jpg"] == (3 if name == "a.csv" else 4)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        ("000002.jpg  1  1", "000002.jpg  1  2", 4, 16, "Smiling is '2'; allowed: -1 and 1, or 0 and 1"),
        ("000002.jpg  1  1", "000002.jpg  0  1", 4, 13, "Male is 0, but line 3 writes -1 for absent"),
        ("000001.jpg -1  1 -1", "000001.jpg -1  1  0", 3, 19, "Bald is 0, but line 3 writes -1"),
        ("000002.jpg  1  1 -1", "000002.jpg  1     -1", 4, 21, "2 values for 000002.jpg; the list has 3"),
        ("000002.jpg  1  1 -1", "000002.jpg  1  1 -1 1", 4, 21, "4 values for 000002.jpg"),
        ("000002.jpg  1  1 -1", "", 4, 1, "the line is blank"),
        ("000002.jpg", "000001.jpg", 4, 1, "000001.jpg is there twice (first in line 3)"),
        ("000002.jpg", "img/000002.jpg", 4, 1, "is not the file name of a picture"),
        ("3\n", "4\n", 1, 1, "declares 4 pictures, but 3 lines follow"),
        ("3\n", "", 1, 1, "is not the number of pictures"),
        ("Smiling ", "Male ", 2, 6, "the column Male is there twice"),
        ("Smiling ", "a=b ", 2, 6, "'a=b' cannot be the name of a column"),
        ("000002.jpg  1", "000002.jpg\r 1", 4, 11, "'\\r' does not belong here"),
        ("000002.jpg  1", "000002.jpg \0 1", 4, 12, "'\\x00' does not belong here"),
    ],
)
def test_faults_of_the_published_form(tmp_path: Path, old: str, new: str, line: int, column: int, message: str) -> None:
    assert old in TEXT
    path = put(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}, column {column}: ")) as caught:
        read_attributes(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        ("000002.jpg,1,1,-1", "000002.jpg,1,,-1", 3, 14, "Smiling is ''"),
        ("000002.jpg,1,1,-1", "000002.jpg,1, 7,-1", 3, 15, "Smiling is '7'"),
        ("000002.jpg,1,1,-1", "000002.jpg,1,1", 3, 15, "2 values"),
        ("000002.jpg,1", "000002.jpg,0", 3, 12, "Male is 0, but line 2 writes -1"),
        ("image_id,", "file,", 1, 1, "the first column is 'file'; expected image_id"),
        ("Smiling,", ",", 1, 15, "'' cannot be the name of a column"),
        ("000002.jpg", '"000002.jpg"', 3, 1, "does not belong here"),
    ],
)
def test_faults_of_csv(tmp_path: Path, old: str, new: str, line: int, column: int, message: str) -> None:
    assert old in CSV
    path = put(tmp_path, CSV.replace(old, new, 1), "list_attr_celeba.csv")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}, column {column}: ")) as caught:
        read_attributes(path)
    assert message in str(caught.value)


def test_faults_of_the_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1, column 1: the file is UTF-16"):
        read_attributes(put(tmp_path, TEXT.encode("utf-16")))
    with pytest.raises(ValueError, match="line 4, column 13: byte 0xe4 is not UTF-8"):
        read_attributes(put(tmp_path, TEXT.encode().replace(b"000002.jpg  1", b"000002.jpg  \xe4")))
    for empty in (b"", b"\n \n"):
        with pytest.raises(ValueError, match="line 1, column 1: the file is empty"):
            read_attributes(put(tmp_path, empty))
    with pytest.raises(ValueError, match="line 3, column 1: the list has no rows"):
        read_attributes(put(tmp_path, "0\nMale\n"))


def test_landmarks(tmp_path: Path) -> None:
    text = (
        f"2\n{' '.join(LANDMARK_COLUMNS)}\n1.jpg 69 109 106 113 77 142 73 152 108 154\n2.jpg 69 -1 1.5 1 1 1 1 1 1 1\n"
    )
    table = read_landmarks(put(tmp_path, text))
    assert table.values.dtype == np.float32 and table.values[0].tolist() == [
        69,
        109,
        106,
        113,
        77,
        142,
        73,
        152,
        108,
        154,
    ]
    assert table.values[1, :3].tolist() == [69, -1, 1.5]
    csv = "image_id," + ",".join(LANDMARK_COLUMNS) + "\n1.jpg,69,109,106,113,77,142,73,152,108,154\n"
    assert read_landmarks(put(tmp_path, csv, "a.csv")).values.tolist() == table.values[:1].tolist()
    with pytest.raises(ValueError, match="line 3, column 10: lefteye_y is 'nan'; allowed: a number of px"):
        read_landmarks(put(tmp_path, text.replace("69 109", "69 nan")))
    with pytest.raises(ValueError, match="line 2, column 1: the header is lefteye_y"):
        read_landmarks(put(tmp_path, text.replace("lefteye_x lefteye_y", "lefteye_y lefteye_x")))


def test_partition_and_identities(tmp_path: Path) -> None:
    table = read_numbers(put(tmp_path, "1.jpg 0\n2.jpg 2\n"), column="partition", allowed=(0, 1, 2))
    assert table.values.tolist() == [[0], [2]] and table.values.dtype == np.int32
    csv = read_numbers(put(tmp_path, "image_id,partition\n1.jpg,0\n", "a.csv"), column="partition", allowed=(0, 1, 2))
    assert csv.values.tolist() == [[0]]
    assert read_numbers(put(tmp_path, "1.jpg 2880\n"), column="identity", allowed=None).values.tolist() == [[2880]]
    with pytest.raises(ValueError, match="line 2, column 7: partition is '3'; allowed: 0 or 1 or 2"):
        read_numbers(put(tmp_path, "1.jpg 0\n2.jpg 3\n"), column="partition", allowed=(0, 1, 2))
    with pytest.raises(ValueError, match="line 1, column 7: identity is '-4'; allowed: a whole number from 0"):
        read_numbers(put(tmp_path, "1.jpg -4\n"), column="identity", allowed=None)
    with pytest.raises(ValueError, match="line 1, column 1: 3 columns; expected image_id,partition"):
        read_numbers(put(tmp_path, "image_id,a,b\n1.jpg,0,1\n", "a.csv"), column="partition", allowed=(0, 1, 2))
