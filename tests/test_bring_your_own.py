"""README's way from a function to samples works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from skipjax import cli
from skipjax.weights import registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n\n```python\n(.*?)```", README, re.DOTALL))


def test_a_function_becomes_a_sampler():
    found: dict = {}
    exec(BLOCKS["function"], found)
    samples = np.asarray(found["samples"])
    assert samples.shape == (4096, 2)
    assert samples.std() == pytest.approx(0.5, rel=0.03)
    # Counted without what is defined for the example alone: ten lines.
    assert len(re.findall(r"^\S|^    \S", BLOCKS["function"], re.MULTILINE)) <= 10


def test_a_network_becomes_a_checkpoint(work, monkeypatch, capsys):
    monkeypatch.setattr(registry, "KINDS", dict(registry.KINDS))
    found: dict = {"__name__": "readme"}
    exec(BLOCKS["function"] + BLOCKS["network"], found)
    assert found["images"].shape == (4, 8, 16, 3)
    assert found["params"].labels.num_classes == 10
    cli.main("sample --checkpoint mine --plan ddim --steps 10 --labels 7 --out mine.png".split())
    assert Path("mine.png").is_file() and "10 NFE" in capsys.readouterr().out
