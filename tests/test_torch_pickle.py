"""Hostile pickles in whole files: nothing runs, each ends soon, and memory stays small."""

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch_writer as writer
from hostile_pickles import (
    CANARY,
    DROPPED,
    HEAD,
    REFUSED,
    RUNS,
    RUNS_BY_OPCODES_OF_OLD,
    STORAGE,
    TENSORS,
)
from pickle_parts import dict_of, text, view

from skipjax.weights.readers import state_dict

WEIGHT = text("weight") + view((6,), (1,))


@pytest.fixture(params=["zip", "legacy"])
def write(request, tmp_path):
    """What writes a pickle to a file of either format."""

    def written(code, storages=(STORAGE,)):
        path = tmp_path / "model.pt"
        if request.param == "zip":
            path.write_bytes(writer.archive(writer.wrap(code, storages)))
        else:
            path.write_bytes(b"".join(writer.wrap_legacy(code, storages)))
        return path

    return written


def beside_weights(code):
    """A pickle of a tensor and something else, which is memorised first."""
    return HEAD + b"}(" + text("other") + code + WEIGHT + b"u."


def test_nothing_runs(write, tmp_path, monkeypatch, subtests):
    monkeypatch.chdir(tmp_path)
    canary = Path(CANARY)
    for kind, code in (RUNS | RUNS_BY_OPCODES_OF_OLD).items():
        with subtests.test(kind):
            # Lest this test nothing: Python's own pickle would do it.
            if kind != "as a key":
                pickle.loads(HEAD + code + b".")
                assert canary.is_dir()
                canary.rmdir()
            path = write(beside_weights(code))
            if kind in RUNS:
                assert list(state_dict.read(path)) == ["weight"]
            else:
                writer.refused(path, "its pickle is damaged")
            assert not canary.exists()


@pytest.mark.slow
def test_what_is_no_weight_is_dropped_soon(write, subtests):
    for kind, code in DROPPED.items():
        path = write(beside_weights(code))
        with subtests.test(kind):
            with writer.soon():
                tensors = state_dict.read(path)
            assert list(tensors) == ["weight"]
            np.testing.assert_array_equal(tensors["weight"], np.zeros(6, np.float32))


@pytest.mark.slow
def test_what_torch_does_not_write_is_refused(write, subtests):
    for kind, (code, match) in REFUSED.items():
        with subtests.test(kind):
            most = 3.0 if "very many" in kind else 1.0
            writer.refused(write(beside_weights(code)), match, most)


def test_a_pickle_ends_where_it_says(write, subtests):
    for code, match in [
        (b"", "is cut short|its pickle is damaged"),
        (HEAD + b"}", "is cut short|its pickle is damaged"),
        (HEAD + b".", "its pickle is damaged"),
        (HEAD + b"N" * 2**24, "accepted are 16777216|has too many parts"),
    ]:
        with subtests.test(code[:9]):
            writer.refused(write(code), match, 3.0)


def test_tensors_that_are_no_view_of_their_storage_are_refused(write, subtests):
    storage = struct.pack("<6f", *range(6))
    for kind, (code, match) in TENSORS.items():
        with subtests.test(kind):
            writer.refused(write(dict_of(code), [storage]), match)


def test_what_is_small_and_claims_to_be_huge_takes_little_memory(write, subtests):
    for kind, code in (DROPPED | {kind: code for kind, (code, _) in REFUSED.items()}).items():
        if len(code) > 20_000:
            continue
        path = write(beside_weights(code))
        tracemalloc.start()
        with subtests.test(kind):
            try:
                state_dict.read(path)
            except ValueError:
                pass
            assert tracemalloc.get_traced_memory()[1] < 2**20 + 160 * len(code)
        tracemalloc.stop()


@pytest.mark.slow
def test_all_of_it_takes_little_memory(tmp_path):
    """In a process of its own, whose address space is bounded by what it has and 256 MiB."""
    codes = [*RUNS.values(), *DROPPED.values(), *(c for c, _ in (REFUSED | TENSORS).values())]
    for index, code in enumerate(codes):
        path = tmp_path / f"{index}.pt"
        path.write_bytes(writer.archive(writer.wrap(beside_weights(code), [STORAGE])))
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from skipjax.weights.readers import state_dict\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + 2**28\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.pt')):\n"
        "    try:\n"
        "        state_dict.read(path)\n"
        "    except ValueError:\n"
        "        pass\n"
        "    print(path)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(codes)
