"""README's way from a PyTorch network to samples works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n\n```python\n(.*?)```", README, re.DOTALL))


class Half(torch.nn.Module):
    """Half of x is noise."""

    def forward(self, x, t):
        assert t.shape == x.shape[:1]
        return x / 2


def test_a_network_of_torch_becomes_a_sampler():
    found: dict = {"net": Half(), "torch": torch}
    exec(BLOCKS["function"] + BLOCKS["torch"], found)
    plan, keys, noise, skipjax = (found[name] for name in ("plan", "keys", "noise", "skipjax"))
    theirs, ours = (
        np.asarray(skipjax.integrate(plan, skipjax.denoisers.from_eps(eps), noise, keys))
        for eps in (found["eps"], lambda x, t: x / 2)
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
