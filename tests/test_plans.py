"""The tables of DDPM, skipped-step sampling, DDIM and their hybrid, and what equals what."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from tables import COLUMNS, SCHEDULES

from skipjax import grids, plans

LINEAR = SCHEDULES["linear"]
PROCESSES = ("linear", "scaled_linear", "cosine")
each_skip = pytest.mark.parametrize(
    "skips",
    [
        pytest.param([7, 20, 50, 333], id="few steps"),
        pytest.param([1, 2], id="many steps", marks=pytest.mark.slow),
    ],
)


def cases(skips):
    """Name, schedule, skip and the times that it visits."""
    for name, skip in product(PROCESSES, skips):
        yield f"{name}, skip {skip}", SCHEDULES[name], skip, grids.skipped(1000, skip)


def assert_same(one, other, case):
    """Entry by entry, to 1e-12."""
    assert one.space == other.space, case
    for column in COLUMNS:
        ours, theirs = getattr(one, column), getattr(other, column)
        assert ours.dtype == theirs.dtype == np.float64, case
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-12, atol=1e-12, err_msg=f"{case}, {column}"
        )


@each_skip
def test_skipped_equals_ddpm_on_the_respaced_chain_equals_ddim_with_eta_1(skips):
    for case, schedule, skip, times in cases(skips):
        skipped = plans.skipped(schedule, skip)
        assert skipped.nfe == len(times) and skipped.history == 1, case
        assert_same(skipped, plans.ddpm(schedule, times, "small"), case)
        assert_same(skipped, plans.ddim(schedule, times, eta=1.0), case)


@each_skip
def test_skipped_equals_ddpm_written_with_the_betas_of_the_respaced_chain(skips):
    for case, schedule, skip, times in cases(skips):
        abar = schedule.alpha[times] ** 2
        before = np.append(abar[1:], 1.0)
        betas = 1 - abar / before
        plan = plans.skipped(schedule, skip)
        # 1 - abar is 4e-5 at cosine's first time: float64 holds it to 3e-12 of its size.
        close = partial(np.testing.assert_allclose, rtol=0, atol=5e-12, err_msg=case)
        close(plan.keep, np.sqrt(1 - betas) * (1 - before) / (1 - abar))
        close(plan.mix[:, 0], np.sqrt(before) * betas / (1 - abar))
        close(plan.noise**2, betas * (1 - before) / (1 - abar))


@each_skip
def test_a_hybrid_is_skipped_step_sampling_above_its_cutoff_and_ddim_below(skips):
    for case, schedule, skip, times in cases(skips):
        assert_same(plans.hybrid(schedule, times, cutoff=0), plans.skipped(schedule, skip), case)
        assert_same(plans.hybrid(schedule, times, cutoff=1000), plans.ddim(schedule, times), case)
        for cutoff in (1, 19, 500, 999, 1000):
            expected = plans.ddim(schedule, times, np.where(times >= cutoff, 1.0, 0.0))
            at = f"{case}, cutoff {cutoff}"
            assert_same(plans.hybrid(schedule, times, cutoff), expected, at)
            assert_same(plans.skipped(schedule, skip, cutoff), expected, at)


def test_a_step_that_starts_at_the_cutoff_is_noisy():
    times = grids.skipped(1000, 20)
    for cutoff, noisy in [(519, 25), (520, 24), (518, 25), (500, 25), (499, 26)]:
        noise = plans.hybrid(LINEAR, times, cutoff).noise
        assert (noise > 0).sum() == noisy
        assert (noise[:noisy] > 0).all()


def test_ddpm_has_guided_diffusions_posterior(goldens):
    golden = np.load(goldens / "diffusion" / "respaced_schedules.npz")
    for case in ("linear|1000|250", "linear|1000|ddim25", "cosine|1000|250"):
        kind, T, steps = case.split("|")
        plan = plans.ddpm(SCHEDULES[kind], grids.respaced(int(T), steps))
        np.testing.assert_array_equal(plan.t[::-1], golden[f"{case}/timestep_map"], case)
        close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12, err_msg=case)
        close(plan.keep[::-1], golden[f"{case}/posterior_mean_coef2"])
        close(plan.mix[::-1, 0], golden[f"{case}/posterior_mean_coef1"])
        close(plan.noise[::-1] ** 2, golden[f"{case}/posterior_variance"])


def test_large_variance_is_beta_of_the_respaced_chain_and_none_on_the_last_step(goldens):
    golden = np.load(goldens / "diffusion" / "respaced_schedules.npz")
    plan = plans.ddpm(LINEAR, grids.respaced(1000, "25"), "large")
    betas = golden["linear|1000|25/betas"][::-1]
    np.testing.assert_allclose(plan.noise[:-1] ** 2, betas[:-1], rtol=1e-12)
    assert plan.noise[-1] == 0
    small = plans.ddpm(LINEAR, grids.respaced(1000, "25"))
    assert (plan.keep == small.keep).all() and (plan.mix == small.mix).all()


# guided-diffusion's 1 - abar in float32 leaves few digits at the second time of a chain, where
# it is 1e-4; everywhere else its steps are good to float32.
STEP = np.array([2e-6, 5e-5, 5e-6, 2e-6, 2e-6, 2e-6]).reshape(-1, 1, 1, 1)


def a_step(plan, golden, tag, x_0):
    """What the plan makes of guided-diffusion's inputs, each at its own row."""
    row = plan.nfe - 1 - golden[f"{tag}/t"]
    columns = plan.keep, plan.mix[:, 0], plan.noise
    keep, mix, noise = (column[row].reshape(-1, 1, 1, 1) for column in columns)
    return keep * golden["x"] + mix * golden[f"{tag}/{x_0}"] + noise * golden["noise"]


def test_a_ddim_step_equals_guided_diffusions(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    for (tag, kind, steps), eta in product(
        [
            ("linear1000_250_range", "linear", "250"),
            ("linear1000_ddim25_range", "linear", "ddim25"),
            ("cosine1000_ddim25_range", "cosine", "ddim25"),
            ("linear1000_25_fixedsmall", "linear", "25"),
        ],
        (0.0, 0.5, 1.0),
    ):
        plan = plans.ddim(SCHEDULES[kind], grids.respaced(1000, steps), eta)
        ours = a_step(plan, golden, tag, "ddim_sample/guided0/pred_xstart")
        theirs = golden[f"{tag}/ddim_sample/guided0/eta{eta}/sample"]
        assert (np.abs(ours - theirs) < STEP).all(), f"{tag}, eta {eta}"


def test_a_ddpm_step_equals_guided_diffusions(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    for tag, variance in [
        ("linear1000_25_fixedsmall", "small"),
        ("linear1000_25_fixedlarge_xstart", "large"),
    ]:
        plan = plans.ddpm(LINEAR, grids.respaced(1000, "25"), variance)
        ours = a_step(plan, golden, tag, "p_sample/guided0/pred_xstart")
        theirs = golden[f"{tag}/p_sample/guided0/sample"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6, err_msg=tag)


def test_a_perfect_prediction_lands_on_the_forward_marginal():
    # From x_t = alpha x_0 + sigma eps: alpha_s x_0 and variance sigma_s^2 at the next point.
    for name, eta in product(PROCESSES, (0.0, 0.3, 1.0)):
        plan, case = plans.ddim(SCHEDULES[name], grids.skipped(1000, 37), eta), f"{name}, {eta}"
        weight = plan.keep * plan.alpha + plan.mix[:, 0]
        variance = (plan.keep * plan.sigma) ** 2 + plan.noise**2
        alpha, sigma = np.append(plan.alpha[1:], 1), np.append(plan.sigma[1:], 0)
        np.testing.assert_allclose(weight, alpha, rtol=1e-12, err_msg=case)
        np.testing.assert_allclose(variance, sigma**2, atol=1e-12, err_msg=case)


def test_eta_may_differ_from_step_to_step():
    times = np.array([900, 500, 100])
    plan = plans.ddim(LINEAR, times, [1.0, 0.5, 0.0])
    whole = plans.ddim(LINEAR, times, 1.0)
    np.testing.assert_allclose(plan.noise, whole.noise * [1.0, 0.5, 0.0], rtol=1e-15)


def test_the_network_is_told_the_times_and_levels_of_the_grid():
    times = np.array([999, 400, 7])
    plan = plans.ddim(LINEAR, times)
    assert plan.t.tolist() == [999, 400, 7] and plan.nfe == 3
    assert (plan.alpha == LINEAR.alpha[times]).all()
    assert (plan.sigma == LINEAR.sigma[times]).all()


def test_a_grid_of_one_time_jumps_to_the_data():
    for plan in [
        plans.ddpm(LINEAR, [999]),
        plans.ddim(LINEAR, [999]),
        plans.skipped(LINEAR, 1000),
    ]:
        assert plan.nfe == 1 and plan.noise[0] == 0
        np.testing.assert_allclose((plan.keep[0], plan.mix[0, 0]), (0, 1), atol=1e-12)


def test_grids_that_do_not_fit_are_refused(subtests):
    writers = {
        "ddpm": plans.ddpm,
        "ddim": plans.ddim,
        "hybrid": partial(plans.hybrid, cutoff=500),
    }
    for name, (times, message) in product(
        writers,
        [
            ([1, 2, 3], "must decrease strictly within 999 .. 0"),
            ([999, 500, 500], "must decrease strictly"),
            ([1000, 500], "must decrease strictly"),
            ([500, -1], "must decrease strictly"),
            ([999, np.nan], "must decrease strictly"),
            ([], "vector of numbers"),
            (999, "vector of numbers"),
            ([[999, 500]], "vector of numbers"),
            (["999", "500"], "vector of numbers"),
        ],
    ):
        with subtests.test(name, times=times), pytest.raises(ValueError, match=message):
            writers[name](LINEAR, times)


def test_eta_outside_0_1_or_of_another_length_is_refused(subtests):
    message = r"eta must be a number in 0 \.\. 1, or 3 of them"
    for eta in (-0.1, 1.1, np.nan, [0.5, 0.5], [0.1, 0.2, 2.0]):
        with subtests.test(eta=eta), pytest.raises(ValueError, match=message):
            plans.ddim(LINEAR, [999, 500, 1], eta)


def test_cutoff_outside_its_range_is_refused(subtests):
    for cutoff in (-1, 1001, 0.5, True, None):
        for write in (
            partial(plans.hybrid, LINEAR, [999, 500], cutoff),
            partial(plans.skipped, LINEAR, 20, cutoff),
        ):
            message = rf"cutoff is {cutoff}: it must be"
            with subtests.test(write.func.__name__, cutoff=cutoff):
                with pytest.raises(ValueError, match=message):
                    write()


def test_another_variance_is_refused():
    with pytest.raises(ValueError, match="variance is 'medium': it must be one of small, large"):
        plans.ddpm(LINEAR, [999, 500], "medium")
