"""Schedules and grids against the tables of diffusers' schedulers."""

import numpy as np
import pytest

from skipjax import grids, schedules

pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e .[oracle]"
)

SCHEDULES = {
    "linear": (schedules.linear(), {"beta_schedule": "linear"}),
    "scaled_linear": (
        schedules.scaled_linear(),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (schedules.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
}
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


@pytest.mark.parametrize("offset", [1, 3, 19])
@pytest.mark.parametrize("num", [5, 7, 10, 20, 50])
def test_leading_grid_with_an_offset_equals_set_timesteps(num, offset):
    scheduler = diffusers.DDIMScheduler(steps_offset=offset)
    scheduler.set_timesteps(num)
    assert grids.leading(1000, num, offset).tolist() == scheduler.timesteps.tolist()
