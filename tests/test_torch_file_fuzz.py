"""Some mutated files, or thousands; `fuzz_torch_file` itself makes as many as one likes."""

import fuzz_torch_file
import pytest


@pytest.mark.parametrize("files", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_refused_or_read_within_bounds(tmp_path, files):
    counts = fuzz_torch_file.fuzz(files=files, seed=1, folder=tmp_path)
    assert counts.outcomes.total() == files
    assert counts.outcomes["refused"] > files / 2
    assert counts.outcomes["read otherwise"] > files / 200
    assert counts.growth < 2**27 and counts.memory < 100
