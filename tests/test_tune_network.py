"""Plans made for a U-Net, from the first call to the last picture."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.tree_util import Partial
from small_tunings import KEY, tuned

import skipjax
from skipjax import plans
from skipjax.denoisers import unchanged
from skipjax.generation import denoiser
from skipjax.plans import Plan
from skipjax.tuning import vjp
from skipjax.tuning.examples import Examples, draw

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_in_a_hurry")]


@pytest.fixture(scope="module")
def network():
    return tiny.pretrained()


def test_a_network_gets_a_plan_that_says_where_it_is_from(network, tmp_path):
    plan = tuned(network, label=1, out=tmp_path)
    assert plan.nfe == 3
    said = plan.origin.tuned
    assert said["checkpoint"] == network.fingerprint and said["teacher"].startswith("dpmpp_3m")
    assert set(said["error"]) == {"tuned", "fixed", "ratio"}
    again = Plan.from_json((tmp_path / "plan.json").read_text())
    assert again.origin.tuned == json.loads(json.dumps(said))
    np.testing.assert_array_equal(again.mix, plan.mix)
    assert {"plan.json", "report.md", "before.png", "after.png", "error.png", "teacher"} == {
        path.name for path in tmp_path.iterdir()
    }
    assert ", 9 calls | " in (tmp_path / "report.md").read_text()
    pictures = skipjax.sample(network, KEY, plan=again, num=2, label=0)
    assert np.isfinite(pictures).all()
    # The teacher's pictures are there: interrupted or not, they are not drawn again.
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "teacher").iterdir())]
    same = tuned(network, label=1, out=tmp_path)
    after = [path.stat().st_mtime_ns for path in sorted((tmp_path / "teacher").iterdir())]
    assert before[:-1] == after[:-1]
    np.testing.assert_array_equal(same.mix, plan.mix)
    with pytest.raises(ValueError, match="teacher holds another teacher: "):
        tuned(network, label=2, out=tmp_path)


def test_derivatives_are_those_of_the_network():
    """Many pictures, and norms of single channels: `vjp` says what went wrong there."""
    network = tiny.pretrained(None)
    keys = jax.random.split(KEY, 32)
    some = Examples(jax.random.normal(KEY, (32, *network.shape)), keys)
    of = Partial(lambda params, some: denoiser(params, transform=unchanged), network)
    plan = plans.dpmpp_2m(network.schedule, [900.0, 300.0])
    plan = jax.tree.map(jnp.float32, plan)
    v = jax.random.normal(jax.random.key(1), (5, 32, *network.shape))
    carries = vjp.forward(of, plan, some)
    vectors = {1: None, 2: vjp.Vectors(v)}
    owed = vjp.pull_back(of, plan, some, carries, vectors.get)
    gradient = jax.jit(jax.grad(lambda plan, v: (v * draw(of, plan, some)).sum()))
    for i in (0, 4):
        along = gradient(plan, v[i])
        for got, wanted in zip(jax.tree.leaves(owed), jax.tree.leaves(along), strict=True):
            got = got[..., i, :].sum(axis=-1)
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
