"""Some mutated pickles of EDM's kind, or thousands; `fuzz_edm_pickle` makes any number."""

import fuzz_edm_pickle
import pytest


@pytest.mark.parametrize("files", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_pickles_are_refused_or_read_within_bounds(tmp_path, files):
    counts = fuzz_edm_pickle.fuzz(files=files, seed=1, folder=tmp_path)
    assert counts.outcomes["refused"] > files / 3
    assert counts.outcomes["read otherwise"] > files / 200
    assert counts.outcomes["described"] > files / 200
    assert counts.memory < 100
