"""scheduler_config.json: the process and the sampler that it says, and what is refused."""

import random
import warnings

import numpy as np
import pytest

from skipjax import schedules
from skipjax.plans.schedulers import DDIM, DDPM, PNDM, Euler, Heun, Scheduler
from skipjax.weights.diffusers import scheduler


def read(name, pipeline=None, **said):
    return scheduler.read({"_class_name": name} | said, pipeline)


def test_a_config_says_the_process_and_the_sampler():
    found = read("DDPMScheduler", variance_type="fixed_large", beta_schedule="squaredcos_cap_v2")
    assert found.scheduler == Scheduler(DDPM(variance="large"), 1000, 1.0)
    assert found.process["variance"] == "large" and found.process["bounds"] == (-1, 1)
    np.testing.assert_array_equal(found.process["schedule"].alpha, schedules.cosine().alpha)
    found = read("DDIMScheduler", clip_sample=False, beta_schedule="scaled_linear")
    assert found.scheduler == Scheduler(DDIM(clipped_eps=True)) and not found.process["bounds"]
    found = read("DDIMScheduler", thresholding=True, sample_max_value=2.0)
    assert found.scheduler == Scheduler(DDIM(), threshold=(0.995, 2.0))
    found = read("EulerDiscreteScheduler", prediction_type="v_prediction", clip_sample=True)
    assert found.scheduler == Scheduler(Euler()) and found.process["parameterization"] == "v"
    assert "bounds" not in found.process and "variance" not in found.process
    assert read("FlaxDDIMScheduler").scheduler == Scheduler(DDIM(), 50, 1.0)
    found = read("DDPMScheduler", num_train_timesteps=100, beta_end=0.1)
    assert found.scheduler.steps == 100
    assert found.process["schedule"].sigma[0] == pytest.approx(0.01)  # not scaled by T
    betas = [0.1, 0.2, 0.3]
    found = read("DDPMScheduler", trained_betas=betas)
    np.testing.assert_allclose(found.process["schedule"].alpha ** 2, np.cumprod([0.9, 0.8, 0.7]))


def test_zero_terminal_snr_is_exact_where_the_sampler_starts_from_it():
    more = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    assert read("DDIMScheduler", **more).process["schedule"].alpha[-1] == 0
    assert read("EulerDiscreteScheduler", **more).process["schedule"].alpha[-1] == 2**-12
    zero = read("DDIMScheduler", **more).process["schedule"]
    with pytest.raises(ValueError, match="steps is 5, .* Euler cannot take: .* zero SNR"):
        Scheduler(Euler()).plan(zero, 5)
    with pytest.raises(ValueError, match="for schedules that preserve variance"):
        Scheduler(Heun()).plan(schedules.rectified_flow(), 5)


def test_pipelines_have_numbers_of_steps_and_samplers_of_their_own():
    assert read("DDPMScheduler").scheduler.steps == 1000
    assert read("DDPMScheduler", "DDPMPipeline").scheduler.steps == 1000
    assert read("DDPMScheduler", "DiTPipeline").scheduler.steps == 50
    assert read("LCMScheduler").scheduler.steps == 4
    ddim = read("DDPMScheduler", "DDIMPipeline", clip_sample=True, variance_type="fixed_large")
    assert ddim.scheduler == Scheduler(DDIM(), 50, 1.0) and "variance" not in ddim.process
    pndm = read("DDIMScheduler", "PNDMPipeline", clip_sample=True)
    assert pndm.scheduler == Scheduler(PNDM(), 50)


def test_unknown_fields_are_named_and_those_of_other_schedulers_are_not():
    with warnings.catch_warnings(action="error"):
        read("EulerDiscreteScheduler", set_alpha_to_one=False, skip_prk_steps=True, _any=3)
    with pytest.warns(UserWarning, match="nothing is known of eta_max, tensor_format"):
        read("DDIMScheduler", eta_max=1, tensor_format="pt")


def test_samplers_that_are_not_offered_are_said(subtests):
    for name, more in (
        ("DEISMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ):
        with subtests.test(name, **more):
            with pytest.warns(UserWarning, match=f"its own sampler, a {name} .* is not offered"):
                found = read(name, **more)
            assert found.scheduler is None and found.process["schedule"].T == 1000


def test_what_is_not_supported_is_refused_by_name(subtests):
    for name, said, words in (
        ("FlowMatchEulerDiscreteScheduler", {}, "is a FlowMatchEulerDiscrete.* known are DDPM"),
        ("DDIMScheduler", {"beta_schedule": "laplace"}, "must be one of linear, scaled_linear"),
        ("DDIMScheduler", {"prediction_type": "flow"}, "must be one of epsilon, sample"),
        ("DDIMScheduler", {"timestep_spacing": "even"}, "must be one of leading, trailing"),
        ("DDIMScheduler", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("DDIMScheduler", {"num_train_timesteps": "1000"}, "must be a whole number"),
        ("DDIMScheduler", {"beta_end": 2}, "must be in 0 .. 1"),
        ("DDIMScheduler", {"beta_start": float("nan")}, "must be in 0 .. 1"),
        ("DDIMScheduler", {"trained_betas": [0.1, 1.5]}, "betas must be a vector"),
        ("DDIMScheduler", {"clip_sample_range": 0}, "clip_sample_range is 0"),
        ("DDPMScheduler", {"variance_type": "fixed"}, "must be one of fixed_small"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas is true"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpm"}, "must be one of dpmsolver"),
        ("EulerDiscreteScheduler", {"interpolation_type": "no"}, "must be one of linear, log"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": 1, "sigma_min": 1}, "true or false"),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "spread by karras and by beta",
        ),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            "timestep_type is 'continuous'",
        ),
    ):
        with subtests.test(name, **said), pytest.raises(ValueError, match=words):
            read(name, **said)


def test_any_values_are_read_or_refused_in_one_line():
    rng, values = (
        random.Random(0),
        [None, True, -1, 0, 1, 7, 10**30, 0.5, -0.1, 1e999, float("nan")],
    )
    values += ["", "linear", "trailing", [], [0.1], [[1]], ["a"], {}, {"a": 1}]
    for _ in range(600):
        name = rng.choice([*scheduler.CLASSES])
        keys = sorted(scheduler.KNOWN)
        said = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(4))}
        if said.get("num_train_timesteps") == 10**30:
            said["num_train_timesteps"] = 5
        with warnings.catch_warnings(action="ignore"), np.errstate(all="raise"):
            try:
                found = scheduler.read(said | {"_class_name": name})
                if found.scheduler is not None:
                    plan = found.scheduler.plan(
                        found.process["schedule"], rng.choice([None, 1, 3])
                    )
                    assert np.isfinite(plan.keep).all()
            except ValueError as error:
                assert str(error) and "\n" not in str(error), said
