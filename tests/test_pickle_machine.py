"""Hostile pickles in whole files: each is refused soon, nothing runs, and memory stays small."""

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch_writer as writer
from hostile_pickles import CANARY, HEAD, REFUSED, RUNS, STORAGE, TENSORS
from pickle_parts import dict_of

from skipjax.weights import torch_file


def test_nothing_runs(tmp_path, monkeypatch, subtests):
    monkeypatch.chdir(tmp_path)
    canary = Path(CANARY)
    for kind, code in RUNS.items():
        with subtests.test(kind):
            # Lest this test nothing: Python's own pickle would do it.
            pickle.loads(HEAD + code + b".")
            assert canary.is_dir()
            canary.rmdir()
            path = write(tmp_path, HEAD + code + b".")
            why = "which is refused, because a state dict of plain tensors"
            message = writer.refused(path, why)
            assert not canary.exists()
            assert "torch.save(model.state_dict(), path)" in message


def test_what_no_state_dict_needs_is_refused(tmp_path, subtests):
    for kind, (code, match) in REFUSED.items():
        with subtests.test(kind):
            head = b"" if code.startswith(b"\x80") else HEAD
            writer.refused(write(tmp_path, head + code + b"."), match)


def test_a_pickle_ends_where_it_says(tmp_path, subtests):
    for code, match in [
        (b"", "is cut short"),
        (HEAD + b"}", "is cut short"),
        (HEAD + b".", "something other than one object"),
        (HEAD + b"}.}.", "goes on for 2 bytes after its end"),
        (HEAD + b"}" + HEAD + b".", "is of protocol 2"),
        (HEAD + b"N" * 2**25, "accepted are 33554432"),
    ]:
        with subtests.test(code[:9]):
            writer.refused(write(tmp_path, code), match)


def test_tensors_that_are_no_view_of_their_storage_are_refused(tmp_path, subtests):
    storage = struct.pack("<6f", *range(6))
    path = tmp_path / "model.pt"
    for kind, (code, match) in TENSORS.items():
        with subtests.test(kind):
            path.write_bytes(writer.archive(writer.wrap(dict_of(code), [storage])))
            writer.refused(path, match)


def test_what_is_small_and_claims_to_be_huge_takes_little_memory(tmp_path, subtests):
    for kind, (code, _) in (REFUSED | TENSORS).items():
        if len(code) < 10_000:
            path = write(tmp_path, HEAD + code + b".")
            tracemalloc.start()
            with subtests.test(kind):
                with pytest.raises(ValueError):
                    torch_file.state_dict(path)
                assert tracemalloc.get_traced_memory()[1] < 2**20
            tracemalloc.stop()


@pytest.mark.slow
def test_all_of_it_takes_little_memory(tmp_path):
    """In a process of its own, whose address space is bounded by what it has and 256 MiB."""
    for index, (code, _) in enumerate([*REFUSED.values(), *TENSORS.values()]):
        folder = tmp_path / str(index)
        folder.mkdir()
        write(folder, HEAD + code + b".")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from skipjax.weights import torch_file\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + 2**28\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "for path in sorted(Path(sys.argv[1]).glob('*/*.pt')):\n"
        "    try:\n"
        "        torch_file.state_dict(path)\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(REFUSED) + len(TENSORS)


def write(folder, code):
    path = folder / "model.pt"
    path.write_bytes(writer.archive(writer.wrap(code, [STORAGE])))
    return path


def test_the_reader_imports_no_unpickler():
    for module in ("torch_file", "torch_tensors", "pickle_machine", "zip_records"):
        source = Path(torch_file.__file__).with_name(f"{module}.py").read_text()
        lines = [line for line in source.splitlines() if line.startswith(("import", "from"))]
        words = {word for line in lines for word in line.replace(",", " ").split()}
        assert words.isdisjoint({"pickle", "_pickle", "torch", "importlib", "marshal", "shelve"})
        assert "eval(" not in source and "exec(" not in source and "__import__" not in source
