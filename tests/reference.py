"""Networks with random weights, and what guided-diffusion's gave for some of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from compiling import OPTIONS

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


def labelled(logits, y):
    """Log-probability of each label, [B]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]


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

    def recorded(self, way):
        """The output, and what every module gave on the way; of a classifier, log-probabilities
        of labels and the gradient of their sum as well.

        Args:
            way: How the program is compiled: "in_a_hurry" or "as_ever".
        """
        return jax.jit(self.record, compiler_options=OPTIONS[way])(self.params, *self.inputs)

    def record(self, params, x, *others):
        network, variables = models.network(self.config), {"params": params}
        if not self.of_classifier:
            return network.apply(variables, x, *others, capture_intermediates=True)

        def log_prob(x):
            logits, state = network.apply(variables, x, *others, capture_intermediates=True)
            of_labels = labelled(logits, self.io["in_y"])
            return of_labels.sum(), (logits, state, of_labels)

        gradient, recorded = jax.grad(log_prob, has_aux=True)(x)
        return *recorded, gradient

    def activation_errors(self, ours):
        """Largest difference of every block's output from theirs, over their largest value."""
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

    def run(self, config=None, dtype=jnp.float32, params=None, options=None):
        """The output alone, by a program that is compiled with some options."""
        network = models.network(config or self.config, dtype)

        def apply(params, inputs):
            return network.apply({"params": params}, *inputs)

        params = self.params if params is None else params
        return jax.jit(apply, compiler_options=options)(params, self.inputs)
