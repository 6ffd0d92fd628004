"""A checkpoint's own sampler, as its scheduler_config.json says it, against that very scheduler.

Here are the configs of released models, and every option that changes a table.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_oracle import (
    FORMULAS,
    READINGS,
    difference,
    diffusers,
    from_the_start,
    in_float64,
    of_config,
    ours,
    torch,
)

from skipjax import denoisers
from skipjax.sampling import integrate
from skipjax.schedules import DATA
from skipjax.weights.diffusers import scheduler as schedulers

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD |= {"clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon"}
DDPM = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
# Cards of released models on the hub, by what they are of; see the facts in the tests beside.
RELEASED = {
    "stable-diffusion-v1-5": SD
    | {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
    | {"steps_offset": 1, "trained_betas": None},
    "stable-diffusion-2-1": SD
    | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "steps_offset": 1}
    | {"set_alpha_to_one": False, "skip_prk_steps": True},
    "stable-diffusion-inpainting": SD
    | {"_class_name": "DDIMScheduler", "steps_offset": 1, "set_alpha_to_one": False},
    "stable-diffusion-xl-base-1.0": SD
    | {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear"}
    | {"sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True}
    | {"steps_offset": 1, "timestep_spacing": "leading", "use_karras_sigmas": False},
    "sd-turbo": SD
    | {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1, "timestep_spacing": "trailing"},
    "sdxl-turbo": SD
    | {"_class_name": "EulerAncestralDiscreteScheduler", "steps_offset": 1}
    | {"timestep_spacing": "trailing"},
    "LCM_Dreamshaper_v7": SD
    | {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0}
    | {"set_alpha_to_one": True, "steps_offset": 0},
    "DiT-XL-2-256": DDPM | {"_class_name": "DDIMScheduler", "clip_sample": False},
    "ddpm-cifar10-32": DDPM
    | {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": True},
    "ddpm-cat-256": DDPM
    | {"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample": True},
}
NUMS = (1, 2, 4, 7, 10, 25, 50)
SPACINGS = ("leading", "trailing", "linspace")


def read(config, **more):
    with warnings.catch_warnings(action="error"):
        return schedulers.read(config | more)


def assert_same(config, num, change=None, within=FORMULAS):
    """Asserts that a config's plan is its scheduler, and starts from the same noise."""
    cls = getattr(diffusers, config["_class_name"])
    seen = []

    def look(scheduler):
        seen.append(scheduler)
        if change:
            change(scheduler)

    # What clips is not linear: loops are for that.
    theirs = of_config(cls, config | {"clip_sample": False}, num, look)
    found = read(config)
    plan = found.scheduler.plan(found.process["schedule"], num)
    at = f"{config} {num}"
    rows = ours(plan, config.get("prediction_type", "epsilon"))
    assert rows.shape == theirs.rows.shape, at
    assert difference(rows, theirs.rows) < within, at
    np.testing.assert_allclose(plan.t, theirs.times, rtol=1e-6, atol=1e-6, err_msg=at)
    (scheduler,) = seen
    std = float(scheduler.init_noise_sigma)
    if hasattr(scheduler, "is_scale_input_called") or "Heun" in config["_class_name"]:
        std /= np.hypot(1, float(scheduler.sigmas[0]))
    assert (1.0 if plan.prior_std is None else plan.prior_std) == pytest.approx(std, abs=1e-9), at


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs(name):
    for num in NUMS:
        if name != "stable-diffusion-v1-5" or num > 1:
            assert_same(RELEASED[name], num)


@pytest.mark.parametrize("cls", ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler"])
def test_strides_on_every_grid(cls):
    for spacing in SPACINGS:
        for num in (4, 7, 10, 15, 50):
            for offset in (0, 1):
                config = SD | {"_class_name": cls, "timestep_spacing": spacing}
                assert_same(config | {"steps_offset": offset}, num)


@pytest.mark.parametrize("to_one", [False, True])
def test_ends_of_ddim_and_pndm(to_one):
    for cls, more in (
        ("DDIMScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("PNDMScheduler", {"skip_prk_steps": False}),
    ):
        for num in (6, 20, 33):
            config = DDPM | {"_class_name": cls, "set_alpha_to_one": to_one} | more
            assert_same(config, num)


@pytest.mark.parametrize("prediction", READINGS)
def test_every_prediction(prediction):
    more = {"prediction_type": prediction}
    for name, config in RELEASED.items():
        cls = config["_class_name"]
        if prediction != "sample" or cls not in (
            "PNDMScheduler",
            "EulerAncestralDiscreteScheduler",
        ):
            assert_same(config | more, 8), name
    if prediction != "sample":
        assert_same(DDPM | {"_class_name": "PNDMScheduler"} | more, 12)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_variances_of_ddpm(variance):
    for spacing in SPACINGS:
        config = DDPM | {"_class_name": "DDPMScheduler", "variance_type": variance}
        assert_same(config | {"timestep_spacing": spacing, "steps_offset": 3}, 11)


@pytest.mark.parametrize(
    "cls",
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"]
    + ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)
def test_solvers_on_every_grid(cls):
    for spacing in SPACINGS:
        for beta in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            for num in (1, 5, 10, 20):
                config = {"_class_name": cls, "timestep_spacing": spacing, "beta_schedule": beta}
                assert_same(config | {"steps_offset": 1}, num, _begun(cls))


@pytest.mark.parametrize("spread", ["karras", "exponential", "beta"])
def test_solvers_on_levels_of_their_own(spread):
    for cls, finals in (
        ("EulerDiscreteScheduler", ("zero", "sigma_min")),
        ("HeunDiscreteScheduler", ("zero",)),
        ("DPMSolverMultistepScheduler", ("zero", "sigma_min")),
        ("UniPCMultistepScheduler", ("zero", "sigma_min")),
    ):
        for final in finals:
            for num in (5, 20):
                config = SD | {"_class_name": cls, f"use_{spread}_sigmas": True}
                assert_same(config | {"final_sigmas_type": final}, num, _begun(cls))


def test_more_options_of_euler():
    euler = SD | {"_class_name": "EulerDiscreteScheduler"}
    for more in (
        {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 9.0},
        {"interpolation_type": "log_linear"},
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading"},
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"},
    ):
        for num in (4, 15):
            assert_same(euler | more, num, _begun("EulerDiscreteScheduler"))


def test_more_options_of_dpm_solver():
    dpm = SD | {"_class_name": "DPMSolverMultistepScheduler"}
    for more in (
        {"solver_order": 1},
        {"solver_order": 3},
        {"solver_order": 3, "lower_order_final": False},
        {"solver_order": 3, "euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"solver_type": "heun"},
        {"solver_type": "bh2"},
        {"algorithm_type": "deis", "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"},
        {"use_lu_lambdas": True},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
        {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
        | {"timestep_spacing": "trailing"},
    ):
        for num in (6, 14, 15, 25):
            assert_same(dpm | more, num, from_the_start)


def test_more_options_of_unipc():
    unipc = SD | {"_class_name": "UniPCMultistepScheduler"}
    for more in (
        {"solver_order": 1},
        {"solver_order": 3},
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"predict_x0": False, "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0, 1]},
        {"disable_corrector": list(range(30))},
        {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 7.0},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ):
        for num in (4, 10, 25):
            assert_same(unipc | more, num, from_the_start)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_zero_terminal_snr(name):
    config = SD | {"_class_name": name, "prediction_type": "v_prediction"}
    config |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    for num in (4, 10, 20):
        assert_same(config, num)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_almost_zero_terminal_snr(name):
    config = SD | {"_class_name": name, "prediction_type": "v_prediction"}
    config |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    for num in (4, 10, 20):
        assert_same(config, num, within=1e-9)


def test_schedules_of_their_betas():
    for more in (
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": "linear", "num_train_timesteps": 100, "beta_end": 0.1},
        {"trained_betas": np.linspace(0.001, 0.03, 200).tolist(), "num_train_timesteps": 200},
    ):
        assert_same({"_class_name": "DDPMScheduler"} | more, 20)


def test_absent_fields_take_the_defaults_of_their_class():
    for name in schedulers.CLASSES:
        if name == "DPMSolverSDEScheduler":  # which needs torchsde
            continue
        cls = getattr(diffusers, name)
        with warnings.catch_warnings(action="ignore"):
            theirs, said = cls(), schedulers.read({"_class_name": name})
        abar = theirs.alphas_cumprod.double().numpy()
        np.testing.assert_allclose(said.process["schedule"].alpha ** 2, abar, atol=1e-6)
        config = schedulers.CLASSES[name]()
        ignored = {*config.ignores}
        for key, value in theirs.config.items():
            if hasattr(config, key) and key not in ignored:
                ours = getattr(config, key)
                assert (list(ours) if isinstance(ours, tuple) else ours) == value, (name, key)


MATRIX = np.random.default_rng(0).normal(size=(3, 3)) / 2


def network(x, t):
    return 3 * jnp.tanh(x @ jnp.asarray(MATRIX, x.dtype) + t[:, None, None, None] / 1000)


@pytest.mark.parametrize(
    "limits",
    [{"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.7}]
    + [{"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}],
    ids=["clip", "range", "threshold"],
)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_loops_that_limit_x_0(name, limits, float64):
    # DDIM's eps is then the network's own: what clipping took off x_0 is in the plan.
    config = DDPM | {"_class_name": name, "clip_sample": False} | limits
    cls, num = getattr(diffusers, name), 10
    found = read(config)
    plan = found.scheduler.plan(found.process["schedule"], num)
    assert (plan.excess is not None) == (name == "DDIMScheduler")
    own = found.scheduler
    transform = denoisers.keep_within(own.clip and (-own.clip, own.clip))
    if own.threshold is not None:
        transform = denoisers.Threshold(*own.threshold)
    start, *noises = np.random.default_rng(1).normal(size=(num + 1, 2, 4, 5, 3))
    keys = jax.random.split(jax.random.key(0), 2)
    denoise = transform(denoisers.from_eps(network))
    out = integrate(plan, denoise, jnp.asarray(start), keys, noise=jnp.asarray(np.array(noises)))

    scheduler = cls.from_config(config)
    scheduler.set_timesteps(num)
    scheduler.alphas_cumprod = torch.from_numpy(found.process["schedule"].alpha ** 2)
    x, drawn = torch.from_numpy(start), iter(torch.from_numpy(np.array(noises)))
    with pytest.MonkeyPatch.context() as patch, in_float64(cls):
        module = cls.__module__
        patch.setattr(f"{module}.randn_tensor", lambda *_, **__: next(drawn))
        for t in scheduler.timesteps:
            m = 3 * torch.tanh(x @ torch.from_numpy(MATRIX) + float(t) / 1000)
            # Thresholds are over channels and places alike.
            x = scheduler.step(m, t, x, return_dict=False)[0]
    np.testing.assert_allclose(out, x.numpy(), rtol=0, atol=1e-10)


def test_plans_end_where_they_should():
    config = read(RELEASED["stable-diffusion-v1-5"])
    plan = config.scheduler.plan(config.process["schedule"])
    assert plan.nfe == 51 and plan.origin.end == 0
    config = read(RELEASED["stable-diffusion-xl-base-1.0"])
    assert config.scheduler.plan(config.process["schedule"]).origin.end == DATA


def _begun(cls):
    """Their list of levels may hold a time twice, and a step is looked up by its time."""
    return None if cls in ("EulerAncestralDiscreteScheduler",) else from_the_start
