"""Verification sets: those of every Python and numpy are read, and a pickle that would do something is never run."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from facegen.data.images import encode_png
from facegen.data.pair_bins import PairBin, write_pair_bin


def picture(number: int, side: int = 16) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


PICTURES = [picture(number) for number in range(6)]
SAME = [True, False, True]


def written(path, contents, *, protocol: int = 4):
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    return path


def as_python_2(pictures: list[bytes], same: list[bool], *, protocol: int) -> bytes:
    """What Python 2 writes: its `str` has operations of its own; bools are numbers before protocol 2."""
    if protocol == 2:
        items = [
            (b"U" + bytes([len(p)]) if len(p) < 256 else b"T" + struct.pack("<i", len(p))) + p + b"q\x02"
            for p in pictures
        ]
        flags = b"".join(b"\x88" if flag else b"\x89" for flag in same)
        return b"\x80\x02]q\x01(" + b"".join(items) + b"e]q\x03(" + flags + b"e\x86q\x04."
    texts = b"".join(b"S" + repr(p)[1:].encode() + b"\np%d\na" % (2 + i) for i, p in enumerate(pictures))
    flags = b"".join(b"I01\na" if flag else b"I00\na" for flag in same)
    return b"((lp1\n" + texts + b"(lp99\n"[:2] + flags + b"t."


def check(found: PairBin) -> None:
    assert found.encoded == PICTURES and found.same.tolist() == SAME and found.same.dtype == bool and len(found) == 3


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [tuple, list])
def test_every_protocol_of_python_3(tmp_path, protocol, kind):
    check(PairBin.open(written(tmp_path / "lfw.bin", kind((PICTURES, SAME)), protocol=protocol)))


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_2(tmp_path, protocol):
    data = as_python_2(PICTURES, SAME, protocol=protocol)
    assert pickle.loads(data, encoding="bytes") == (PICTURES, SAME)  # the test's own file is right
    (tmp_path / "lfw.bin").write_bytes(data)
    check(PairBin.open(tmp_path / "lfw.bin"))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_instead_of_bytes_and_bools(tmp_path, protocol):
    arrays = [np.frombuffer(p, np.uint8) for p in PICTURES[:3]] + [
        np.array([*p], np.uint8)[:, None] for p in PICTURES[3:]
    ]
    for flags in (np.array(SAME), [np.bool_(flag) for flag in SAME], np.array(SAME, np.int64), [1, 0, 1]):
        check(PairBin.open(written(tmp_path / "a.bin", (arrays, flags), protocol=protocol)))


def test_numpy_of_python_2(tmp_path):
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'u1'\nI0\n"
        b"I1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'abc'\ntb"
    )
    (tmp_path / "a.bin").write_bytes(b"((l" + array + b"ag0\n"[:1] + b"S'de'\na(lI01\nat.")
    assert PairBin.open(tmp_path / "a.bin").encoded == [b"abc", b"de"]


def test_what_is_written_is_what_others_read(tmp_path):
    write_pair_bin(tmp_path / "own.bin", PICTURES, np.array(SAME))
    check(PairBin.open(tmp_path / "own.bin"))
    assert pickle.loads((tmp_path / "own.bin").read_bytes(), encoding="bytes") == (PICTURES, SAME)
    assert PairBin.open(tmp_path / "own.bin").name == "own"
    with pytest.raises(ValueError, match="6 pictures for 2 pairs"):
        write_pair_bin(tmp_path / "own.bin", PICTURES, [True, False])


def test_pictures_are_decoded_when_asked_for(tmp_path):
    spoilt = [*PICTURES[:3], b"no picture", picture(9, side=24), PICTURES[5]]
    write_pair_bin(tmp_path / "a.bin", spoilt, SAME)
    pairs = PairBin.open(tmp_path / "a.bin")  # nothing is decoded yet
    images = pairs.images([5, 0], threads=2)
    assert np.array_equal(images[1], np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert images.shape == (2, 16, 16, 3) and not np.array_equal(images[0], images[1])
    with pytest.raises(ValueError, match=r"a\.bin: picture 3: not a JPEG"):
        pairs.images([2, 3], threads=1)
    with pytest.raises(ValueError, match="picture 4 is 24x24 px"):
        pairs.images([0, 4], threads=1)


class Call:
    """A pickle that calls something when it is read."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["whole", "picture", "flags"])
def test_what_would_be_run_is_refused_and_not_run(tmp_path, protocol, place):
    flag = tmp_path / "run"
    for call in (Call(os.system, f"touch {flag}"), Call(eval, f"open({str(flag)!r}, 'w')"), Call(os.mkdir, str(flag))):
        contents = {"whole": call, "picture": ([call, *PICTURES[1:]], SAME), "flags": (PICTURES, call)}[place]
        path = written(tmp_path / "evil.bin", contents, protocol=protocol)
        with pytest.raises(ValueError, match=r"evil\.bin is no usable verification set.*not allowed"):
            PairBin.open(path)
        assert not flag.exists()
        pickle.loads(path.read_bytes())  # an ordinary reader would have run it
        assert flag.exists()
        flag.rmdir() if flag.is_dir() else flag.unlink()


def refused(tmp_path, data: bytes) -> str:
    (tmp_path / "evil.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"evil\.bin is no usable verification set") as caught:
        PairBin.open(tmp_path / "evil.bin")
    return str(caught.value)


def test_arrays_of_objects_are_refused(tmp_path):
    objects = np.array([*PICTURES, None], dtype=object)[:6]
    assert "not a list" in refused(tmp_path, pickle.dumps((objects, SAME)))
    assert "'O8'" in refused(tmp_path, pickle.dumps(([objects, *PICTURES[1:]], SAME)))
    assert "'O8'" in refused(tmp_path, pickle.dumps((PICTURES, np.array(SAME, dtype=object))))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that would be 16 GiB of it
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"short.",
        b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"short.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"].",
        b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"short.",
    ],
)
def test_claims_beyond_the_file_are_refused_before_memory_is_taken(tmp_path, data):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_an_array_that_claims_more_than_it_has(tmp_path):
    data = pickle.dumps(([np.frombuffer(b"abcd", np.uint8), b"x"], [True]), protocol=2)
    assert data.count(b"K\x04\x85") == 1
    assert "claims 1000000000 bytes and has 4" in refused(
        tmp_path, data.replace(b"K\x04\x85", b"J\x00\xca\x9a\x3b\x85")
    )


def test_one_picture_a_million_times_takes_its_memory_once(tmp_path):
    import resource

    array = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
    path = written(tmp_path / "a.bin", ([array] * 2000, [True] * 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = PairBin.open(path)
    assert len(pairs.encoded) == 2000 and pairs.encoded[7] == array.tobytes()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10  # KiB; copies would be 2 GiB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends too early"),
        (b"\xff at all", "which there is not"),
        (pickle.dumps((PICTURES, SAME))[:200], "expected"),
        (pickle.dumps({"a": 1}), "EMPTY_DICT"),
        (pickle.dumps(PICTURES), "not two lists"),
        (pickle.dumps((PICTURES[:5], SAME)), "5 pictures for 3 pairs"),
        (pickle.dumps(([], [])), "at least one pair"),
        (pickle.dumps((["text", *PICTURES[1:]], SAME)), "picture 0 is of type str"),
        (pickle.dumps(([b"", *PICTURES[1:]], SAME)), "picture 0 is empty"),
        (pickle.dumps((PICTURES, [True, False, 2])), "of type int"),
        (pickle.dumps((PICTURES, [True, False, None])), "of type NoneType"),
        (pickle.dumps((PICTURES, "abc")), "of type str"),
        (pickle.dumps((PICTURES, np.array([0.0, 1.0, 1.0]))), "'f8'"),
        (pickle.dumps((PICTURES, np.array(SAME)[:, None])), "true or false"),
        (pickle.dumps((PICTURES, np.array([1, 0, 1], ">i8"))), "'>i8'"),
        (pickle.dumps((PICTURES, np.array([1, 0, 7]))), "true or false"),
        (b"(lp0\nP17\na.", "PERSID"),
        (b"(S'x'\nios\nsystem\n.", "INST"),
        (b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x81.", "NEWOBJ"),
        (b"\x80\x02cfacegen.data.pair_bins\n_Note\n.", "facegen.data.pair_bins._Note"),
        (b"\x80\x04\x8c\x05numpy\x8c\x08__dict__\x93.", "numpy.__dict__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.", "numpy.core.os.system"),
        (b"cnumpy\ndtype\n(tRN\x86.", "is not an|argument|type"),
        (b"cnumpy\nndarray\n(NS'state'\ntb.", "not two lists"),
        (b"\x80\x02](S'a'\nS'b'\neg0\n.", "Memo"),
    ],
)
def test_anything_else_is_one_clear_line(tmp_path, data, reason):
    import re

    message = refused(tmp_path, data)
    assert re.search(reason, message) and "\n" not in message


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="verification set"):
        PairBin.open(tmp_path / "lfw.bin")
