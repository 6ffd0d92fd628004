"""Damaged and forged archives: each is refused, and no byte of a damaged record gets through."""

import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch_writer as writer

from skipjax.weights.readers import state_dict

VALUES = np.arange(64, dtype=np.float32)


def entries():
    return writer.entries({"weight": writer.tensor(VALUES), "bias": writer.tensor(VALUES[:3])})


def changed(record, **changes):
    """The archive, with a record changed."""
    made = entries()
    entry = next(entry for entry in made if entry.name == f"model/{record}")
    for field, value in changes.items():
        setattr(entry, field, value)
    return writer.archive(made)


def added(name, data=b"x", **changes):
    """The archive, with one more record."""
    return writer.archive([*entries(), writer.Entry(name, data, **changes)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def test_archives_of_the_standard_library_are_read_too(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries():
            archive.writestr(entry.name, entry.data)
    np.testing.assert_array_equal(state_dict.read(path)["weight"], VALUES)


def test_the_standard_library_reads_what_these_tests_write(path):
    path.write_bytes(writer.archive(entries()))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.name: entry.data for entry in entries()} == {
            name: archive.read(name) for name in archive.namelist()
        }


def test_sizes_and_places_of_64_bits_are_read(path):
    """As torch writes them beyond 4 GiB; here they are small all the same."""
    made = entries()
    for entry in made:
        if entry.name == "model/data/0":
            entry.extra = struct.pack("<2H2Q", 1, 16, 256, 256)
            entry.size = entry.packed = 2**32 - 1
    path.write_bytes(writer.archive(made))
    np.testing.assert_array_equal(state_dict.read(path)["weight"], VALUES)
    whole = writer.archive(made)
    offset = whole.index(b"model/version") - 30
    for entry in made:
        if entry.name == "model/version":
            entry.extra, entry.start = struct.pack("<2HQ", 1, 8, offset), 2**32 - 1
    path.write_bytes(writer.archive(made))
    np.testing.assert_array_equal(state_dict.read(path)["weight"], VALUES)


BOMB = zlib.compress(bytes(10**8))[2:-4]
DAMAGED = "is no whole zip archive .*: the file is damaged or cut short: download or copy it again"
LARGER = "the records of the archive are larger than the file; the file is damaged"
NOWHERE = "does not lie where the archive's directory says; the file is damaged"
LARGEST = {"size": 2**32 - 1, "packed": 2**32 - 1}
ARCHIVES = {
    "a bomb": (
        added("model/data/2", BOMB, method=8, size=10**8, crc=0),
        LARGER,
    ),
    "compressed": (changed("data/0", method=8), "is compressed, which torch.save does not write"),
    "another size packed": (changed("data/0", packed=3), "is compressed, which torch.save does"),
    "encrypted": (changed("data/0", flags=0x809), "'model/data/0' is encrypted"),
    "strongly encrypted": (changed("data/0", flags=0x841), "'model/data/0' is encrypted"),
    "a name twice": (added("model/data/0"), "two records of the archive have one name"),
    "many that are one": (
        writer.archive([writer.Entry(f"model/{n}", b"", size=500, packed=500) for n in range(9)]),
        LARGER,
    ),
    "another's header": (changed("data/1", start=0), "the CRC-32 of the 256 bytes at 64 is wrong"),
    "beyond the end": (changed("data/1", start=2**31), NOWHERE),
    "within another": (changed("data/1", start=700), NOWHERE),
    "as large as 4 GiB": (changed("data/0", size=2**32 - 2, packed=2**32 - 2), LARGER),
    "as large as 2**63": (
        changed("data/0", **LARGEST, extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)),
        LARGER,
    ),
    "a cut 64-bit size": (
        changed("data/0", **LARGEST, extra=struct.pack("<2HL", 1, 16, 1)),
        DAMAGED,
    ),
    "a wrong checksum": (changed("data/0", crc=1), "the CRC-32 of the 256 bytes at .* is wrong"),
    "no checksum": (changed("data/0", crc=0), "save it again with checksums if torch was told"),
    "a wrong checksum of the pickle": (changed("data.pkl", crc=1), "the CRC-32 of .* is wrong"),
    "a huge header": (changed("data/0", local_extra=2**16 - 1), NOWHERE),
    "an unknown byte order": (changed("byteorder", data=b"middle"), "byte order is 'middle'"),
    "a huge byte order": (
        changed("byteorder", data=b"little" * 9),
        "its byte order has 54 bytes; accepted are 16",
    ),
    "a name not in UTF-8": (added("model/\udcff"), DAMAGED),
    "something after it": (writer.archive(entries()) + b"x" * 2**17, DAMAGED),
    "a huge directory": (writer.archive(entries(), size=2**62), DAMAGED),
    "a directory from the start": (writer.archive(entries(), size=2**12), DAMAGED),
    "no directory": (writer.archive(entries(), size=0), "is a zip archive with 0 data.pkl"),
    "no records": (b"PK\3\4" + writer.archive([]), "is a zip archive with 0 data.pkl"),
}


def test_what_torch_does_not_write_is_refused(path, subtests):
    for kind, (content, match) in ARCHIVES.items():
        with subtests.test(kind):
            path.write_bytes(content)
            writer.refused(path, match)


def test_an_archive_cut_short_anywhere_is_refused(path):
    whole = writer.archive(entries())
    for length in [
        *range(0, 200),
        *range(200, len(whole), 29),
        *range(len(whole) - 150, len(whole)),
    ]:
        path.write_bytes(whole[:length])
        writer.refused(path, "cut short|is empty|is no .safetensors")


@pytest.mark.parametrize("flips", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_bit_flipped_anywhere_is_found_or_changes_nothing(path, flips):
    whole = writer.archive(entries())
    random = np.random.default_rng(0)
    found = 0
    for bit in random.choice(len(whole) * 8, flips, replace=False):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            tensors = state_dict.read(path)
            np.testing.assert_array_equal(tensors["weight"], VALUES)
            np.testing.assert_array_equal(tensors["bias"], VALUES[:3])
        except ValueError as error:
            found += 1
            assert str(error).startswith(f"{path}: ")
    assert found > 0.3 * flips


def test_a_file_that_changes_after_it_was_opened_is_refused(path):
    path.write_bytes(writer.archive(entries()))
    tensor = state_dict.read(path)["weight"]
    content = path.read_bytes()
    start = content.index(VALUES.tobytes())
    path.write_bytes(content[: start + 100])
    with pytest.raises(ValueError, match="model.pt: ends too early; the file is damaged"):
        np.asarray(tensor)
    path.write_bytes(content.replace(VALUES.tobytes(), VALUES[::-1].tobytes()))
    with pytest.raises(ValueError, match="model.pt: the CRC-32 of the 256 bytes at .* is wrong"):
        np.asarray(tensor)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        np.asarray(tensor)


@pytest.mark.slow
def test_many_records_are_listed_soon_and_too_many_refused(path):
    made = [writer.Entry(f"model/data/{key:05}", b"") for key in range(60_000)]
    path.write_bytes(writer.archive([*made, *entries()]))
    assert len(state_dict.read(path)) == 2
    made = [writer.Entry(f"model/data/{key:050}", b"") for key in range(2**16 - 8)]
    path.write_bytes(writer.archive([*made, *entries()]))
    tracemalloc.start()
    writer.refused(path, "the archive has a directory of .* bytes; the file is damaged")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
