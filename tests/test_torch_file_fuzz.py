"""A few thousand mutated files; `fuzz_torch_file` itself makes as many as one likes."""

import fuzz_torch_file


def test_mutated_files_are_refused_or_read_within_bounds(tmp_path):
    counts = fuzz_torch_file.fuzz(files=2000, seed=1, folder=tmp_path)
    assert counts.outcomes.total() == 2000
    assert counts.outcomes["refused"] > 1000 and counts.outcomes["read otherwise"] > 10
    assert counts.growth < 2**27
