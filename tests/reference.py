"""Networks with random weights, and what guided-diffusion's gave for some of them."""

import json
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import models
from skipjax.weights import adm

CASES = {
    "unet_a": "unet_a_resupdown_ss_legacy_hc_cond_sigma",
    "unet_b": "unet_b_resupdown_ss_new_hc_cond_sigma",
    "unet_c": "unet_c_convupdown_noss_legacy_nh_uncond",
    "superres_e": "superres_e_resupdown_ss_legacy_nh_cond",
    "classifier_f": "classifier_f_attnpool",
    "classifier_g": "classifier_g_adaptive",
}


def nhwc(x):
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def random_params(config):
    """Params of which none is zero, from the shapes alone."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        return rng.normal(path[-1].key == "scale", spread, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(fill, models.param_shapes(config))


class Case:
    """One of guided-diffusion's: config, weights, inputs, and what it gave.

    Its random weights are numbers of bfloat16.
    """

    def __init__(self, folder):
        description = json.loads((folder / "config.json").read_text())
        arguments = description["constructor"]
        self.of_classifier = description["model_class"] == "EncoderUNetModel"
        if description["model_class"] == "SuperResModel":
            arguments["low_res_channels"] = arguments["in_channels"]
        kind = models.ClassifierConfig if self.of_classifier else models.UNetConfig
        self.config = kind(**arguments)
        self.state_dict = dict(np.load(folder / "weights.npz"))
        self.params = adm.to_params(self.state_dict, self.config)
        self.io = {name: nhwc(value) for name, value in np.load(folder / "io.npz").items()}
        names = ["in_x", "in_t"] if self.of_classifier else ["in_x", "in_t", "in_y", "in_low_res"]
        self.inputs = [self.io[name] for name in names if name in self.io]
        self.out = self.io["out"]
        activations = np.load(folder / "activations.npz")
        self.activations = {name: nhwc(value) for name, value in activations.items()}

    @cached_property
    def recorded(self):
        """The output, and what every module gave on the way."""
        network = models.network(self.config)

        @jax.jit
        def record(*inputs):
            return network.apply({"params": self.params}, *inputs, capture_intermediates=True)

        out, state = record(*self.inputs)
        return out, state["intermediates"]

    def activation_errors(self):
        """Largest difference from theirs, over their largest value, of every block's output."""
        _, ours = self.recorded
        errors = {}
        for name, theirs in self.activations.items():
            if name in ("timestep_embedding", "middle_block"):
                continue
            # The golden of a block is what its last part gives.
            stem = name.replace(".", "_")
            whole = {"time_embed": "time_embed_2"}.get(name, stem)
            parts = sorted(part for part in ours if part.startswith(f"{stem}_"))
            part = whole if whole in ours else parts[-1]
            value = np.asarray(ours[part]["__call__"][0])
            errors[name] = np.abs(value - theirs).max() / np.abs(theirs).max()
        return errors

    def run(self, config=None, dtype=jnp.float32, params=None):
        network = models.network(config or self.config, dtype)
        apply = jax.jit(lambda params, inputs: network.apply({"params": params}, *inputs))
        return apply(self.params if params is None else params, self.inputs)
