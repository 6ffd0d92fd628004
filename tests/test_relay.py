"""Networks that take over from each other: one path, whatever it is cut into."""

import jax
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import grids, plans, schedules

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY = jax.random.key(0)
TIMES = grids.trailing(1000, 6)
ONE = jax.local_devices()[:1]


@pytest.fixture(scope="module")
def model():
    return tiny.pretrained()


@pytest.mark.slow
def test_a_plan_that_is_cut_in_two_is_the_whole(model):
    options = {"label": 1, "devices": ONE}
    plan = plans.ddpm(model.schedule, TIMES)
    whole = skipjax.sample(model, KEY, num=2, plan=plan, **options)
    first = plans.ddpm(model.schedule, TIMES[:4], end=TIMES[4])
    legs = [(model, first), (model, plans.ddpm(model.schedule, TIMES[4:]))]
    drawn = skipjax.relay(legs, KEY, num=2, **options)
    np.testing.assert_allclose(drawn, whole, rtol=0, atol=2e-5)
    alone = skipjax.relay(legs, KEY, ids=[5, 1], **options)  # on whichever devices
    np.testing.assert_allclose(alone[1], drawn[1], rtol=0, atol=2e-5)
    spread = skipjax.relay(legs, KEY, num=2, label=1)
    np.testing.assert_allclose(spread, drawn, rtol=0, atol=2e-5)


def test_each_network_has_its_own_part(model):
    other = model.replace(params=jax.tree.map(lambda leaf: -leaf, model.params), name="other")
    both = plans.split(model.schedule, TIMES, 500, "ddim", "ddim")

    def drawn(*models, **words):
        legs = zip(models, both, strict=True)
        return np.asarray(skipjax.relay(legs, KEY, devices=ONE, **words))

    found = [
        drawn(*models, label=["cat", "dog"])
        for models in ((model, model), (model, other), (other, model))
    ]
    for i, one in enumerate(found):
        assert all(np.abs(one - two).max() > 1e-2 for two in found[i + 1 :])
    # Labels are drawn from the key.
    same = skipjax.sample(model, KEY, num=2, plan="ddim", steps=6, devices=ONE)
    np.testing.assert_allclose(drawn(model, model, num=2), same, rtol=0, atol=2e-5)


def test_split_writes_two_plans_that_meet():
    linear = schedules.linear()
    above, below = plans.split(linear, TIMES, 500, "heun", "dpmpp_2m", end=0)
    assert above.t[0] == TIMES[0] and above.nfe == 6 and below.nfe == 3
    assert (above.origin.method, above.origin.end) == ("heun", TIMES[3])
    assert (below.origin.method, below.origin.end) == ("dpmpp_2m", 0) and below.t[0] == TIMES[3]
    for cutoff in (0, 1000):
        with pytest.raises(ValueError, match=f"cutoff is {cutoff}: some of the times must be"):
            plans.split(linear, TIMES, cutoff)


def test_legs_that_do_not_meet_are_refused(model, subtests):
    whole = plans.ddim(model.schedule, TIMES)
    above, below = plans.split(model, TIMES, 500, "ddim", "ddim")
    wide = tiny.model(tiny.config(image_size=16))
    for legs, message in [
        ([], "legs is empty"),
        ([(model, whole), (model, below)], "leg 2 begins at alpha .*, and the one before ends at"),
        ([(model, above), (model, whole)], "ends at alpha .*plans.split writes both"),
        ([(model, above), (wide, below)], r"leg 2 draws \(16, 16, 3\), and the one before"),
        ([(model, plans.ddim(schedules.cosine(), TIMES))], "written for another schedule"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            skipjax.relay(legs, KEY, num=1, label=0)
    with pytest.raises(TypeError, match="params is a int"):
        skipjax.relay([(3, whole)], KEY)
    with pytest.raises(ValueError, match="label 9|label is 9"):
        skipjax.relay([(model, whole)], KEY, label=9)
    with pytest.raises(TypeError, match="prompts is given"):
        skipjax.relay([(model, whole)], KEY, prompts="a fox")
    assert skipjax.relay([(model, whole.replace(origin=None))], KEY, num=1).shape == (1, 8, 8, 3)
