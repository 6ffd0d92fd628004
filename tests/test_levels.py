"""Schedules between the training times, and schedules that do not preserve variance."""

from functools import partial

import numpy as np
import pytest

from skipjax import schedules
from skipjax.schedules import DATA, Schedule

ROOTS = np.linspace(0.01, 0.3, 1000)
SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "table": schedules.from_alphas_cumprod(np.linspace(0.99, 0.01, 17)),
    "exploding": schedules.variance_exploding(),
    "flow": schedules.rectified_flow(),
    "shifted": schedules.rectified_flow(shift=3.0),
    "other": Schedule(1 - ROOTS, 2 * ROOTS),
}
PRESERVING = ["linear", "scaled_linear", "cosine", "sigmoid", "table"]


def between(schedule, num=2001):
    """Times everywhere but where zero SNR leaves a gap."""
    last = schedule.T - (2 if schedule.alpha[-1] == 0 and schedule.preserves_variance else 1)
    return np.append(np.linspace(0, last, num), [1e-9, last - 1e-9, last / 3])


def test_whole_times_give_the_table_as_int_or_float():
    for name, schedule in SCHEDULES.items():
        times = np.arange(-1, schedule.T)
        expected = np.array([[1, *schedule.alpha], [0, *schedule.sigma]])
        for t in (times, times.astype(float), times.tolist()):
            np.testing.assert_array_equal(schedule.at(t), expected, name)
        for t in (0, 3, 3.0, DATA, float(DATA), np.int32(3)):
            assert np.shape(schedule.at(t)) == (2,), name
            np.testing.assert_array_equal(schedule.at(t), expected[:, int(t) + 1], name)


def test_between_times_it_is_dpm_solvers_process():
    """NoiseScheduleVP("discrete"): log alpha, piecewise linear over (n + 1) / N, n = 0 .. N-1."""
    for name in PRESERVING:
        schedule = SCHEDULES[name]
        N = schedule.T
        continuous = np.linspace(1 / N, 1, 3001)
        log_alpha = np.interp(continuous, np.arange(1, N + 1) / N, np.log(schedule.alpha))
        told = np.clip((continuous - 1 / N) * N, 0, N - 1)  # what it tells the network
        alpha, sigma = schedule.at(told)
        close = partial(np.testing.assert_allclose, rtol=1e-11, err_msg=name)
        close(np.log(alpha), log_alpha, atol=1e-14)
        close(sigma, np.sqrt(1 - np.exp(2 * log_alpha)))
        log_snr = log_alpha - 0.5 * np.log(1 - np.exp(2 * log_alpha))
        close(schedule.log_snr(told), log_snr, atol=1e-11)


def test_between_times_a_process_goes_on_in_its_way():
    for name, schedule in SCHEDULES.items():
        times = between(schedule)
        alpha, sigma = schedule.at(times)
        low = np.floor(times).astype(int)
        high = np.minimum(low + 1, schedule.T - 1)
        if schedule.preserves_variance:
            np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14, err_msg=name)
            shown = [(np.log(alpha), np.log(np.maximum(schedule.alpha, 1e-99)))]
        elif (schedule.alpha == 1).all():
            assert (alpha == 1).all()
            shown = [(np.log(sigma), np.log(schedule.sigma))]
        else:
            shown = [(alpha, schedule.alpha), (sigma, schedule.sigma)]
        for got, table in shown:
            line = table[low] + (times - low) * (table[high] - table[low])
            np.testing.assert_allclose(got, line, rtol=1e-12, atol=1e-14, err_msg=name)


def test_time_is_the_inverse_of_log_snr():
    for name, schedule in SCHEDULES.items():
        times = between(schedule)
        log_snr = schedule.log_snr(times)
        assert (np.diff(log_snr[np.argsort(times)]) < 0).all(), name
        found = schedule.time(log_snr)
        np.testing.assert_allclose(found, times, rtol=0, atol=1e-9, err_msg=name)
        assert np.shape(schedule.time(log_snr[5])) == ()
        whole = np.arange(schedule.T)
        np.testing.assert_array_equal(schedule.time(schedule.log_snr(whole)), whole, name)


def test_ends_are_infinitely_far():
    for schedule in SCHEDULES.values():
        assert schedule.log_snr(DATA) == np.inf
    for name in ("flow", "shifted", "zero_snr"):
        schedule = SCHEDULES[name]
        assert schedule.alpha[-1] == 0 and schedule.sigma[-1] == 1
        assert schedule.log_snr(999) == -np.inf and schedule.time(-np.inf) == 999
    # Rectified flow goes all the way, in finite time.
    assert 998.99 < SCHEDULES["flow"].time(-12.0) < 999
    assert SCHEDULES["flow"].time(-900.0) == 999


def test_other_times_are_refused(subtests):
    for name, schedule in SCHEDULES.items():
        last = schedule.T - 1
        message = rf"t must be in 0 \.\. {last}, or -1 for the data"
        for t in (-2, -0.5, last + 0.5, last + 1, np.nan, np.inf, -np.inf):
            for asked in (t, [0, t]):
                with subtests.test(name, t=asked), pytest.raises(ValueError, match=message):
                    schedule.at(asked)


def test_levels_that_it_never_has_are_refused(subtests):
    message = "log_snr must be in .*, the schedule's, got"
    for name, schedule in SCHEDULES.items():
        first, last = schedule.log_snr([0, schedule.T - 1])
        beyond = [first + 1e-3, np.inf, np.nan]
        beyond += [] if last == -np.inf else [last - 1e-3, -np.inf]
        for log_snr in beyond:
            with subtests.test(name, log_snr=log_snr):
                with pytest.raises(ValueError, match=message):
                    schedule.time([log_snr, first])
        assert schedule.time(first + 1e-12) == 0, name
        assert last == -np.inf or schedule.time(last - 1e-12) == schedule.T - 1, name


def test_between_the_last_two_times_of_zero_snr_there_is_nothing():
    schedule = SCHEDULES["zero_snr"]
    for ask in (lambda: schedule.at(998.5), lambda: schedule.time(schedule.log_snr(998) - 1)):
        with pytest.raises(ValueError, match="no level is known between times 998 and 999.*keep"):
            ask()
    assert schedule.at(998.0)[0] > 0


def test_zero_terminal_snr_keeps_the_first_level_and_stretches_the_rest():
    plain, schedule = SCHEDULES["scaled_linear"], SCHEDULES["zero_snr"]
    assert schedule.alpha[0] == pytest.approx(plain.alpha[0], rel=1e-15)
    slope = np.diff(schedule.alpha) / np.diff(plain.alpha)
    np.testing.assert_allclose(slope, plain.alpha[0] / (plain.alpha[0] - plain.alpha[-1]))


def test_only_a_preserving_schedule_is_stretched(subtests):
    one_time = schedules.from_betas([0.5])
    for schedule in (SCHEDULES["exploding"], SCHEDULES["flow"], one_time):
        message = "only a variance-preserving schedule of two times"
        with subtests.test(T=schedule.T), pytest.raises(ValueError, match=message):
            schedules.zero_terminal_snr(schedule)


def test_rectified_flow_is_a_straight_line_to_noise():
    s = np.arange(1, 1000) / 1000
    for shift in (0.1, 0.3, 1.0, 1.15, 1.7, 3.0, 12.0):
        schedule = schedules.rectified_flow(1000, shift)
        close = partial(np.testing.assert_allclose, err_msg=f"shift {shift}")
        close(schedule.alpha + schedule.sigma, 1, rtol=1e-15)
        assert schedule.alpha[-1] == 0 and schedule.sigma[-1] == 1, shift
        # The shift multiplies the odds sigma / alpha.
        close((schedule.sigma[:-1] / schedule.alpha[:-1]), shift * s / (1 - s), rtol=1e-12)


def test_variance_exploding_goes_from_its_least_to_its_largest():
    schedule = schedules.variance_exploding(50, 0.01, 50.0)
    assert schedule.T == 50 and (schedule.alpha == 1).all()
    assert schedule.sigma[0] == pytest.approx(0.01) and schedule.sigma[-1] == pytest.approx(50)
    assert np.ptp(np.diff(np.log(schedule.sigma))) < 1e-12


def test_cumulative_products_and_betas_say_the_same():
    betas = np.linspace(0.01, 0.4, 30)
    ours, theirs = schedules.from_betas(betas), np.cumprod(1 - betas)
    for abar in (theirs, theirs.tolist()):
        schedule = schedules.from_alphas_cumprod(abar)
        np.testing.assert_array_equal(schedule.alpha, ours.alpha)
        np.testing.assert_array_equal(schedule.sigma, ours.sigma)
    assert schedules.from_alphas_cumprod(np.append(theirs, 0.0)).alpha[-1] == 0
    assert schedules.from_betas([0.1, 0.5, 1.0]).alpha[-1] == 0


def test_what_makes_no_schedule_is_refused(subtests):
    def refuses(message, make, *arguments):
        with subtests.test(make.__name__, arguments=arguments):
            with pytest.raises(ValueError, match=message):
                make(*arguments)

    for abar in ([], 0.5, [[0.5]], [0.5, 0.5], [0.5, 0.6], [1.0, 0.5], [0.5, -0.1], [np.nan]):
        message = "alphas_cumprod must be a vector that decreases"
        refuses(message, schedules.from_alphas_cumprod, abar)
    for betas in ([], [0.1, 0.0], [1.0, 0.1], [-0.1], [np.nan], [[0.1, 0.2]], 0.1):
        refuses("betas must be", schedules.from_betas, betas)
    for shift in (0, -1.0, np.nan):
        message = f"shift is {shift}: it must be positive; 1 is none"
        refuses(message, schedules.rectified_flow, 10, shift)
    for ends in ((0, 80), (1, 1), (2, 1), (-1, 1), (np.nan, 1)):
        message = "sigma_min and sigma_max must be 0 < least < largest"
        refuses(message, schedules.variance_exploding, 10, *ends)
    of_any_T = [schedules.sigmoid, schedules.variance_exploding, schedules.rectified_flow]
    for make in (schedules.linear, schedules.scaled_linear, schedules.cosine, *of_any_T):
        for T in (0, -5):
            refuses(f"T is {T}: .*at least one", make, T)
    assert [make(7).T for make in of_any_T] == [7, 7, 7]


def test_a_fingerprint_tells_a_schedule_from_others():
    near = [
        schedules.linear(beta_end=0.0201),
        schedules.scaled_linear(beta_start=0.0009),
        schedules.linear(999),
        schedules.cosine(beta_max=0.99),
        schedules.rectified_flow(shift=1.01),
        schedules.variance_exploding(sigma_max=81.0),
    ]
    for name, one in SCHEDULES.items():
        assert [other for other, s in SCHEDULES.items() if one.has(s.fingerprint)] == [name]
        assert not any(one.has(schedule.fingerprint) for schedule in near), name


def test_a_fingerprint_knows_tables_of_lower_precision():
    for betas in (np.linspace(1e-4, 0.02, 1000), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2):
        exact = schedules.from_betas(betas)
        abar = np.cumprod(1 - betas.astype(np.float32), dtype=np.float32)
        coarse = schedules.from_alphas_cumprod(abar)
        assert coarse.fingerprint and (coarse.alpha != exact.alpha).any()
        assert exact.has(coarse.fingerprint) and coarse.has(exact.fingerprint)


def test_a_fingerprint_is_plain_numbers():
    fingerprint = SCHEDULES["linear"].fingerprint
    assert len(fingerprint) == 9 and all(type(number) is float for number in fingerprint)
    assert not SCHEDULES["linear"].has(fingerprint[:-1])
    assert not SCHEDULES["linear"].has(())
