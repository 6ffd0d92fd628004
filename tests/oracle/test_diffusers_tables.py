"""Schedules and grids against the tables of diffusers' schedulers."""

from itertools import product

import numpy as np
import pytest

from skipjax import grids, schedules

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)
# Their solvers hand tensors of torch to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULES = {
    "linear": (schedules.linear(), {"beta_schedule": "linear"}),
    "scaled_linear": (
        schedules.scaled_linear(),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (schedules.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": (schedules.sigmoid(), {"beta_schedule": "sigmoid"}),
}
MULTISTEP = [
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
]
GRIDS = {"leading": grids.leading, "trailing": grids.trailing, "linspace": grids.linspace}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_equals_their_float32_table(name):
    schedule, betas = SCHEDULES[name]
    abar = diffusers.DDPMScheduler(**betas).alphas_cumprod.double().numpy()
    # Theirs is a product of a thousand float32 numbers.
    np.testing.assert_allclose(schedule.alpha**2, abar, rtol=0, atol=1e-6)


@pytest.mark.parametrize("T", [100, 4000])
def test_schedule_of_another_length_equals_theirs(T):
    cosine = diffusers.DDPMScheduler(T, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    np.testing.assert_allclose(schedules.cosine(T).alpha ** 2, cosine, rtol=0, atol=1e-6)
    # They leave it to the caller to rescale betas to T.
    betas = {"beta_start": 1e-4 * 1000 / T, "beta_end": 0.02 * 1000 / T}
    linear = diffusers.DDPMScheduler(T, **betas).alphas_cumprod
    np.testing.assert_allclose(schedules.linear(T).alpha ** 2, linear, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("spacing", GRIDS)
def test_grid_equals_set_timesteps(spacing, cls):
    scheduler = getattr(diffusers, cls)(timestep_spacing=spacing)
    for num in [1, 2, 3, 5, 7, 10, 20, 30, 50, 77, 250, 333, 600, 999, 1000]:
        scheduler.set_timesteps(num)
        assert GRIDS[spacing](1000, num).tolist() == scheduler.timesteps.tolist(), num


def test_leading_grid_with_an_offset_equals_set_timesteps():
    for offset in (1, 3, 19):
        scheduler = diffusers.DDIMScheduler(steps_offset=offset)
        for num in (5, 7, 10, 20, 50):
            scheduler.set_timesteps(num)
            grid = grids.leading(1000, num, offset).tolist()
            assert grid == scheduler.timesteps.tolist(), (offset, num)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rescaled_to_zero_terminal_snr_equals_theirs(name):
    schedule, betas = SCHEDULES[name]
    theirs = diffusers.DDPMScheduler(**betas, rescale_betas_zero_snr=True).alphas_cumprod
    ours = schedules.zero_terminal_snr(schedule)
    np.testing.assert_allclose(ours.alpha**2, theirs.double().numpy(), rtol=0, atol=2e-6)
    assert theirs[-1] == 0 == ours.alpha[-1]


@pytest.mark.parametrize("shift", [1.0, 1.15, 3.0])
def test_flow_equals_their_sigmas(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    sigma = schedules.rectified_flow(1000, shift).sigma[::-1]
    np.testing.assert_allclose(sigma, scheduler.sigmas.double().numpy(), rtol=2e-6)


@pytest.mark.parametrize("cls", MULTISTEP)
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_multistep_grid_equals_set_timesteps(spacing, cls):
    for offset in (0, 1):
        scheduler = getattr(diffusers, cls)(timestep_spacing=spacing, steps_offset=offset)
        for num in [1, 2, 3, 5, 7, 10, 20, 30, 50, 77, 250, 333]:
            scheduler.set_timesteps(num)
            arguments = (offset,) if spacing == "leading" else ()
            ours = GRIDS[spacing](1000, num, *arguments, multistep=True)
            assert ours.tolist() == scheduler.timesteps.tolist(), num


@pytest.mark.parametrize("cls", ["EulerDiscreteScheduler", "LMSDiscreteScheduler"])
def test_uniform_grid_equals_linspace_of_euler_and_lms(cls):
    scheduler = getattr(diffusers, cls)(timestep_spacing="linspace")
    for num in [2, 3, 7, 20, 50]:
        scheduler.set_timesteps(num)
        np.testing.assert_allclose(grids.uniform(1000, num), scheduler.timesteps, rtol=1e-6)


@pytest.mark.parametrize(
    ("grid", "option"),
    [(grids.karras, "use_karras_sigmas"), (grids.uniform_log_snr, "use_exponential_sigmas")],
    ids=["karras", "exponential"],
)
def test_grid_by_level_equals_their_sigmas(grid, option):
    for name, num in product(("linear", "scaled_linear", "cosine"), (5, 12, 30)):
        schedule, betas = SCHEDULES[name]
        scheduler = diffusers.EulerDiscreteScheduler(**betas, **{option: True})
        # Our table, so that what differs is the grid: in theirs the least sigma is off by 3e-4.
        scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha**2)
        scheduler.set_timesteps(num)
        times, at = grid(schedule, num), f"{name} {num}"
        alpha, sigma = schedule.at(times)
        theirs = scheduler.sigmas[:-1].double().numpy()
        np.testing.assert_allclose(sigma / alpha, theirs, rtol=1e-6, err_msg=at)
        # Between whole times their log sigma is linear, and our log alpha.
        np.testing.assert_allclose(times, scheduler.timesteps, rtol=0, atol=0.1, err_msg=at)
