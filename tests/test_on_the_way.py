"""What may be done on the way through a plan: started anywhere, looked at, changed; and guided in
several ways at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import grids, guidance, plans, sampling, schedules
from skipjax.denoisers import Point, Prediction, from_eps
from skipjax.evaluation.exact import Gaussian
from skipjax.process import PARAMETERIZATIONS, Flow, Times

LINEAR = schedules.linear()
KEY = jax.random.key(0)
TARGET = Gaussian([0.3, -0.5], [[0.25, 0.1], [0.1, 0.5]])
KEYS = jax.random.split(KEY, 3)
X = jax.random.normal(jax.random.key(1), (3, 2))


def grid(num):
    return grids.trailing(1000, num)


def test_a_run_may_begin_at_any_row():
    for plan in (plans.ddim(LINEAR, grid(6)), plans.ddpm(LINEAR, grid(6))):
        whole = sampling.trajectory(plan, TARGET.denoise, X, KEYS)
        for first in (1, 4):
            rest = skipjax.integrate(plan, TARGET.denoise, whole[first - 1], KEYS, first=first)
            np.testing.assert_array_equal(rest, whole[-1])
    with pytest.raises(ValueError, match="first is 6: it must be a whole number in 0 .. 5"):
        skipjax.integrate(plan, TARGET.denoise, X, KEYS, first=6)


def test_a_multistep_plan_begins_with_a_step_of_first_order():
    many, one = plans.dpmpp_3m(LINEAR, grid(5)), plans.ddim(LINEAR, grid(5))
    begun = sampling.run(many, TARGET.denoise, X, KEYS, first=2, on_row=lambda step: step.moved)
    alone = sampling.run(one, TARGET.denoise, X, KEYS, first=2, on_row=lambda step: step.moved)
    np.testing.assert_allclose(begun[1][0], alone[1][0], rtol=1e-5)
    assert np.abs(begun[1][1] - alone[1][1]).max() > 1e-4


def test_x_is_changed_before_each_call_and_told_of_at_each():
    plan, seen = plans.ddim(LINEAR, grid(4)), []

    def between(row, point, x, keys):
        assert point.t.shape == () and keys.shape == (3,)
        return jnp.where(row.t < 600, jnp.zeros_like(x), x)

    end = skipjax.integrate(
        plan,
        TARGET.denoise,
        X,
        KEYS,
        between=between,
        callback=lambda i, x, prediction: seen.append((int(i), x, prediction)),
    )
    jax.effects_barrier()
    seen.sort(key=lambda step: step[0])
    assert [i for i, _, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_allclose(seen[0][1], X, rtol=1e-6)
    for i, x, prediction in seen:
        assert isinstance(prediction, Prediction)
        assert (x == 0).all() == (plan.t[i] < 600)
        level = plan.alpha[i] * prediction.x_0 + plan.sigma[i] * prediction.eps
        np.testing.assert_allclose(level, x, atol=1e-5)
    np.testing.assert_allclose(end[0], end[1], rtol=1e-6)  # all of it was forgotten


def test_generate_starts_anywhere(compiled_in_a_hurry):
    model, ids = tiny.pretrained(), jnp.arange(2, dtype=jnp.uint32)
    plan, label, seen = plans.skipped(model.schedule, 250), {"label": jnp.zeros(2, int)}, {}
    end = skipjax.generate(
        model, plan, KEY, ids, label, callback=lambda i, x, _: seen.update({int(i): x})
    )
    jax.effects_barrier()
    rest = skipjax.generate(model, plan, KEY, ids, label, start=(jnp.asarray(seen[2]), 2))
    np.testing.assert_allclose(rest, end, atol=1e-5)
    predicted = skipjax.sample(model, KEY, skip=250, num=2, label=0, trajectory=True)
    assert predicted.shape == (4, 2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"start is \(2, 4, 4, 3\) for 2 ids: it must be \(2, 8,"):
        skipjax.generate(model, plan, KEY, ids, label, start=(jnp.zeros((2, 4, 4, 3)), 1))
    with pytest.raises(TypeError, match="plan is a str: give a Plan"):
        skipjax.generate(model, "ddim", KEY, ids, label)


def test_classifiers_that_guide_together_add_up():
    point = Point(jnp.float32(5), jnp.float32(0.8), jnp.float32(0.6))

    def by(direction):
        return lambda x, t: x @ jnp.array(direction)

    once = guidance.classifier(TARGET.denoise, by([1.0, 0.0]), 2.0)
    twice = guidance.classifier(once, by([0.0, 3.0]), 1.0, (0.0, 9.0))
    np.testing.assert_allclose(twice(X, point).gradient, np.tile([2.0, 3.0], (3, 1)), rtol=1e-6)


def test_guidance_is_rescaled_over_the_channels_that_it_changes():
    row, point = PARAMETERIZATIONS["v"], Point(jnp.float32(5), jnp.float32(0.8), jnp.float32(0.6))
    rng = np.random.default_rng(0)
    outputs = {side: rng.normal(size=(3, 4, 5)).astype(np.float32) for side in ("a", "b")}
    x = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)

    def of(condition):
        def denoise(x, point):
            which = jnp.reshape(condition["c"], (-1, 1, 1)) > 0
            both = [jnp.repeat(outputs[s], len(x) // 3, axis=0) for s in "ab"]
            return Prediction(*row.predict(jnp.where(which, *both), x, point))

        return denoise

    told, null = {"c": jnp.ones(3)}, {"c": jnp.zeros(3)}
    for channels, phi in ((None, None), (None, 0.7), (2, None), (2, 0.7)):
        guided = guidance.classifier_free(
            of, told, null, 4.0, rescale=phi, channels=channels, row=row
        )(x, point)
        some = slice(channels)
        a, b = outputs["a"], outputs["b"]
        mixed = a.copy()
        mixed[..., some] = (b + 4 * (a - b))[..., some]
        if phi is not None:
            spread = [o[..., some].std((1, 2), keepdims=True) for o in (a, mixed)]
            mixed[..., some] *= phi * spread[0] / spread[1] + 1 - phi
        got = row.target(guided.x_0, guided.eps, point)
        np.testing.assert_allclose(got, mixed, rtol=1e-4, atol=1e-4)


def test_networks_are_told_what_the_process_says():
    point = Point(jnp.float32(300), jnp.float32(0.6), jnp.float32(0.2))
    assert Flow().c_noise(point) == pytest.approx(0.25)
    assert Flow(1000.0).c_noise(point) == pytest.approx(250)
    assert Times(0.25).c_noise(point) == 75 and Times().c_in(point) == Flow().c_in(point) == 1


def test_what_cannot_be_integrated_is_said(subtests):
    plan, eps = plans.ddim(LINEAR, grid(3)), from_eps(lambda x, t: x)
    for arguments, message in (
        ((plan, eps, X, KEY), "keys are of shape .* give one for each sample"),
        ((plan, eps, X, jnp.zeros((3, 2), jnp.uint32)), "keys are none, or of the legacy kind"),
        ((plan, tiny.pretrained(), X, KEYS), "denoise is a Pretrained: give a denoiser"),
        ((plan, lambda x, point: x, X, KEYS), "denoise gives a .*: it must give a Prediction"),
        (("ddim", eps, X, KEYS), "plan is a str: give a Plan"),
    ):
        with subtests.test(message), pytest.raises((TypeError, ValueError), match=message):
            skipjax.integrate(*arguments)
    assert skipjax.integrate(plan, eps, X.tolist(), KEYS).shape == (3, 2)


def test_words_of_other_libraries_are_understood_or_answered(subtests):
    model = tiny.pretrained()
    for word, meant in (
        ("num_inference_steps", "steps"),
        ("guidance_scale", "guidance"),
        ("class_labels", "label"),
        ("cut_off", "cutoff"),
        ("labell", "label"),
    ):
        with subtests.test(word), pytest.raises(TypeError, match=f"did you mean {meant}"):
            skipjax.sample(model, KEY, **{word: 1})
    for word in ("prompt", "negative"):
        with subtests.test(word), pytest.raises(ValueError, match=f"{word} is given"):
            skipjax.sample(model, KEY, **{word: "a fox"})
