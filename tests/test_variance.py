"""Plans whose noise has a variance that the network learns, and what a tape takes and refuses."""

from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import COLUMNS, SCHEDULES

from skipjax import grids, guidance, plans, sampling, schedules
from skipjax.denoisers import Prediction
from skipjax.evaluation.exact import Gaussian
from skipjax.plans import Plan, Tape
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("float64", "compiled_in_a_hurry")
LINEAR = SCHEDULES["linear"]
TIMES = grids.respaced(1000, "6")
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])
KEYS = jax.random.split(jax.random.key(0), 4)
LEARNED = ("learned_range", "learned")


@jax.jit
def program(plan, place, scale):
    """The exact denoiser, with a variance beside it and guided."""

    def denoise(x, point):
        return TARGET.denoise(x, point)._replace(log_variance=place)

    if scale is not None:
        denoise = guidance.classifier(denoise, lambda x, t: jnp.cos(x).sum(1), scale)
    return integrate(plan, denoise, jax.random.normal(jax.random.key(1), (4, 3)), KEYS)


def run(plan, place=0.0, scale=0.0):
    return np.asarray(program(plan, np.broadcast_to(np.float64(place), (4, 3)), scale))


def variances(schedule, times):
    """Ho et al.'s small and large ones on the chain of times, noisiest first."""
    abar = schedule.alpha[times] ** 2
    before = np.append(abar[1:], 1.0)
    betas = 1 - abar / before
    return betas * (1 - before) / (1 - abar), betas


def test_a_learned_range_spans_the_small_and_the_large_variance():
    for name, steps in product(("linear", "cosine"), ("6", "250", "")):
        schedule, times = SCHEDULES[name], grids.respaced(1000, steps)
        plan = plans.ddpm(schedule, times, "learned_range")
        small, large = variances(schedule, times)
        close = partial(np.testing.assert_allclose, rtol=2e-8, err_msg=f"{name}, {steps}")
        close(np.exp(plan.log_variance[:-1, 0]), small[:-1])
        close(np.exp(plan.log_variance[:, 1]), large)
        assert (plan.log_variance[:-1, 0] < plan.log_variance[:-1, 1]).all(), name


def test_the_network_scales_noise_and_guidance_of_every_row():
    for variance in LEARNED:
        plan = plans.ddpm(LINEAR, TIMES, variance)
        assert plan.noise.tolist() == [1, 1, 1, 1, 1, 0], variance
        assert plan.guide_mean.tolist() == [1] * 6 and plan.guide_eps.tolist() == [0] * 6, variance


def test_the_last_row_has_the_smallest_variance_of_the_one_before_and_no_noise():
    plan = plans.ddpm(LINEAR, TIMES, "learned_range")
    assert plan.log_variance[-1, 0] == plan.log_variance[-2, 0]
    assert np.isfinite(plan.log_variance).all()


def test_a_grid_of_one_time_draws_no_noise():
    for variance, t in product(schedules.VARIANCES, (0, 999)):
        plan, case = plans.ddpm(LINEAR, [t], variance), f"{variance}, {t}"
        chex.assert_tree_all_finite(plan)
        assert plan.noise.tolist() == [0], case
        assert np.isfinite(run(plan, 0.3, 1.0)).all(), case
        ddim = run(plans.ddim(LINEAR, [t]))
        np.testing.assert_allclose(run(plan, 0.3), ddim, rtol=0, atol=1e-6, err_msg=case)


ENDS = [(-1.0, "small"), (1.0, "large")]


def test_at_either_end_of_its_range_the_network_chooses_a_fixed_variance():
    for times, (place, fixed) in product((TIMES, np.array([990, 700, 350, 90, 8, 3])), ENDS):
        learned, plan = (plans.ddpm(LINEAR, times, v) for v in ("learned_range", fixed))
        np.testing.assert_allclose(run(learned, place), run(plan), rtol=0, atol=1e-12)


def test_at_either_end_it_is_guided_alike_up_to_the_last_step():
    for place, fixed in ENDS:
        learned, plan = (plans.ddpm(LINEAR, TIMES, v) for v in ("learned_range", fixed))
        ours, theirs = run(learned, place, 0.8), run(plan, 0.0, 0.8)
        assert 1e-9 < np.abs(ours - theirs).max() < 1e-3, fixed
        # ADM's logarithm has no zero, and its large variance takes the posterior's in the last
        # step.
        last = np.exp(learned.log_variance[-1, int(place > 0)])
        plan = replace(plan, guide_mean=np.append(plan.guide_mean[:-1], last))
        np.testing.assert_allclose(ours, run(plan, 0.0, 0.8), rtol=0, atol=1e-12, err_msg=fixed)


def test_between_the_ends_the_logarithm_is_linear_and_beyond_them_too():
    small, large = variances(LINEAR, TIMES)
    for place in (-1.0, -0.2, 0.0, 0.7, 1.0, 1.4):
        part = (place + 1) / 2
        squared = small[:-1] ** (1 - part) * large[:-1] ** part
        plan = plans.ddpm(LINEAR, TIMES)
        plan = replace(plan, noise=np.append(np.sqrt(squared), 0.0))
        ours = run(plans.ddpm(LINEAR, TIMES, "learned_range"), place)
        np.testing.assert_allclose(ours, run(plan), rtol=0, atol=1e-10, err_msg=str(place))


def test_a_learned_variance_is_that_of_each_pixel():
    plan = plans.ddpm(LINEAR, TIMES, "learned_range")
    place = np.linspace(-50, 50, 12).reshape(4, 3)
    first = jax.tree.map(lambda column: column[:1], plan)  # later ones mix the pixels
    mixed = run(first, place)
    for i, j in ((0, 0), (1, 2), (3, 2)):
        alone = run(first, place[i, j])
        np.testing.assert_allclose(mixed[i, j], alone[i, j], rtol=0, atol=1e-6)
    assert np.abs(mixed - run(first, 0.0)).max() > 1e-3


def test_a_learned_variance_without_range_is_the_exponential_of_what_is_said():
    plan = plans.ddpm(LINEAR, TIMES)
    for said, scale in product((-4.0, 0.0, 1.3), (0.0, 0.8)):
        std = np.exp(said / 2)
        by_hand = replace(plan, noise=std * (plan.noise > 0), guide_mean=np.full(6, std**2))
        ours, theirs = (
            run(plans.ddpm(LINEAR, TIMES, "learned"), said, scale),
            run(by_hand, 0, scale),
        )
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=f"{said}, {scale}")


def test_every_cutoff_has_one_structure_and_one_program():
    @jax.jit
    @chex.assert_max_traces(1)
    def once(plan):
        return program.__wrapped__(plan, jnp.zeros((4, 3)), 1.0)

    for variance in schedules.VARIANCES:
        many = [plans.skipped(LINEAR, 167, cutoff, variance) for cutoff in (0, 1, 500, 999, 1000)]
        shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), plan) for plan in many]
        chex.assert_trees_all_equal(*shapes)
        assert (many[0].log_variance is not None) == variance.startswith("learned")
        if variance == "learned_range":
            for plan in many:
                jax.eval_shape(once, plan)


def test_cutoffs_of_a_learned_range_draw_different_pictures():
    cutoffs = (0, 300, 600, 1000)
    drawn = [run(plans.skipped(LINEAR, 167, c, "learned_range"), 0.5, 1.0) for c in cutoffs]
    assert np.isfinite(drawn).all() and len(np.unique(drawn, axis=0)) == 4


def test_below_the_cutoff_the_variance_is_of_no_account():
    ddim = plans.ddim(LINEAR, TIMES)
    for variance in schedules.VARIANCES:
        hybrid = plans.hybrid(LINEAR, TIMES, 1000, variance)
        for scale in (0.0, 0.8):
            ours, theirs = run(hybrid, 5.0, scale), run(ddim, 0.0, scale)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=variance)
        mixed = plans.hybrid(LINEAR, grids.skipped(1000, 250), 500, variance)
        assert mixed.guide_eps.tolist() == [0, 0, 1, 1], variance
        assert not mixed.noise[2:].any() and not mixed.guide_mean[2:].any(), variance


def test_a_network_that_learns_no_variance_is_told_so():
    for variance in LEARNED:
        with pytest.raises(ValueError, match="learned variance, and the network predicts none"):
            program(plans.ddpm(LINEAR, TIMES, variance), None, None)


def test_another_variance_is_refused(subtests):
    for name, write in {
        "ddpm": partial(plans.ddpm, LINEAR, TIMES),
        "hybrid": partial(plans.hybrid, LINEAR, TIMES, 500),
        "skipped": partial(plans.skipped, LINEAR, 100, 0),
        "respaced": partial(plans.respaced, LINEAR, "10"),
        "respaced, DDIM": partial(plans.respaced, LINEAR, "ddim10"),
    }.items():
        message = "'medium': it must be one of small, large, learned"
        with subtests.test(name), pytest.raises(ValueError, match=message):
            write("medium")


def test_a_string_of_adm_names_the_family_too():
    nfes = {"": 1000, "250": 250, "90,60,60,20,20": 250, "ddim25": 25}
    for (steps, nfe), variance in product(nfes.items(), schedules.VARIANCES):
        plan = plans.respaced(LINEAR, steps, variance)
        times = grids.respaced(1000, steps)
        is_ddim = steps.startswith("ddim")
        expected = plans.ddim(LINEAR, times) if is_ddim else plans.ddpm(LINEAR, times, variance)
        chex.assert_trees_all_equal(plan, expected)
        assert plan.nfe == nfe and plan.noise.any() != is_ddim, f"{steps}, {variance}"


def test_guidance_and_variance_belong_to_a_call():
    for misuse in (Tape.gradient, lambda tape: tape.learned(-1.0, 1.0)):
        tape = Tape(LINEAR)
        tape.start()
        with pytest.raises(ValueError, match="belong to a call: none is recorded"):
            misuse(tape)


def test_the_gradient_of_an_earlier_call_is_refused():
    tape = Tape(LINEAR)
    _, x_0, _ = tape.call(tape.start(), 900)
    gradient = tape.gradient()
    x, x_0, _ = tape.call(1.0 * x_0, 500)
    with pytest.raises(ValueError, match="only the newest guides"):
        tape.plan(x_0 + gradient)


def test_the_gradient_that_comes_back_through_an_older_point_is_refused():
    tape = Tape(LINEAR)
    first, x_0, _ = tape.call(tape.start(), 900)
    _, x_0, _ = tape.call(0.5 * first + x_0 + tape.gradient(), 500)
    with pytest.raises(ValueError, match="only the newest guides"):
        tape.plan(first + x_0)


def test_a_tape_writes_down_what_is_guided_how():
    tape = Tape(LINEAR)
    _, x_0, eps = tape.call(tape.start(), 900)
    x, x_0, _ = tape.call(x_0 + 0.3 * eps, 600)
    tape.learned(-3.0, -2.0)
    x, x_0, _ = tape.call(x_0 + 0.4 * x + 2.0 * tape.gradient(), 300)
    plan = tape.plan(x_0 + 0.0 * tape.gradient())
    assert plan.guide_eps.tolist() == [1, 0, 0] and plan.guide_mean.tolist() == [0, 2, 0]
    assert plan.log_variance.tolist() == [[0, 0], [-3, -2], [0, 0]]


@pytest.mark.slow
def test_a_plan_of_its_first_columns_integrates_and_is_guided_through_the_prediction():
    full = plans.ddim(LINEAR, TIMES, 0.5)
    for named in ({}, {"space": "x_0"}):
        bare = Plan(*(getattr(full, column) for column in COLUMNS), **named)
        assert len(jax.tree.leaves(bare)) == 6
        for scale in (None, 0.8):
            np.testing.assert_allclose(run(bare, 0, scale), run(full, 0, scale), atol=1e-6)
        assert np.abs(run(bare, 0, 0.8) - run(bare, 0, None)).max() > 1e-3


def test_a_plan_in_eps_is_guided_as_its_twin_in_x_0():
    def euler(space):
        tape = Tape(LINEAR, space)
        x = tape.start()
        for t, s in pairwise([*TIMES, schedules.DATA]):
            _, x_0, eps = tape.call(x, t)
            alpha, sigma = LINEAR.at(s)
            x = alpha * x_0 + sigma * eps
        return tape.plan(x)

    ours, theirs = (run(euler(space), 0, 0.8) for space in ("x_0", "eps"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours, run(plans.ddim(LINEAR, TIMES), 0, 0.8), atol=1e-5)


def test_a_row_by_hand():
    """x = 2 keep + 3 mix + S z noise + shift S^2 gradient, of numbers that can be told apart."""
    row = Plan(0.0, 1.0, 1.0, 2.0, np.array([3.0]), 5.0, "x_0", 0.0, 7.0, np.log([[4.0, 16.0]])[0])
    x, m, z, g = (jnp.full((1, 2), value) for value in (1.0, 10.0, 100.0, 1000.0))
    said = Prediction(x, x, log_variance=jnp.array([[-1.0, 1.0]]))
    variance = jax.jit(sampling.variance)(row, said)
    np.testing.assert_allclose(variance, [[4, 16]], rtol=1e-6)
    ours = jax.jit(sampling.update)(row, x, (m,), z, variance, g)
    np.testing.assert_allclose(ours, [[32 + 1e3 + 28e3, 32 + 2e3 + 112e3]], rtol=1e-6)
