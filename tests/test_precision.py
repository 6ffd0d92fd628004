"""What the networks compute in which precision, and what they keep for the backward pass."""

from dataclasses import replace
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import HURRY
from jaxprs import every_equation
from reference import random_params

from skipjax.models import ClassifierConfig, UNetConfig, example, network, param_shapes

UNET = UNetConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_classes=4,
    num_head_channels=16,
    low_res_channels=3,
)
CLASSIFIER = ClassifierConfig(
    image_size=8,
    in_channels=3,
    model_channels=32,
    out_channels=5,
    num_res_blocks=1,
    attention_resolutions=(2,),
    channel_mult=(1, 2),
    num_head_channels=16,
)
CONFIGS = {
    "unet": UNET,
    "unet_scale_shift": replace(UNET, use_scale_shift_norm=True, resblock_updown=True),
    "adaptive": CLASSIFIER,
    "attention": replace(CLASSIFIER, pool="attention"),
    "spatial": replace(CLASSIFIER, pool="spatial"),
    "spatial_v2": replace(CLASSIFIER, pool="spatial_v2"),
}
# Wide convolutions are loops on CPUs, in which equations go without the layer's name.
NARROW = {name: replace(config, channel_mult=(1, 1)) for name, config in CONFIGS.items()}
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
# Name of a config, what the blocks compute in, what params are of.
FEW = [(name, BF16, F32) for name in ("unet", "unet_scale_shift", "attention", "spatial_v2")]
HALF_PARAMS = [(name, BF16, BF16) for name in ("unet_scale_shift", "attention")]
LAYERS = product(CONFIGS, (BF16, F16), (False, True))
LAYERS = [(name, dtype, dtype if half else F32) for name, dtype, half in LAYERS]
# Layers that compute in float32 however the blocks do: embeddings, and what follows the blocks.
FLOAT32 = {"time_embed_0", "time_embed_2", "emb_layers_1", "out_0", "out_2", "out_3"}
FLOAT32 |= {"qkv_proj", "c_proj"}

KEY = jax.random.key(0)


def of_configs(few, every, configs=CONFIGS):
    """Narrow networks of some settings, and every setting where time is taken."""
    some = [(NARROW[name], *dtypes) for name, *dtypes in few]
    rest = [(configs[name], *dtypes) for name, *dtypes in every]
    params = pytest.param(some, id="few"), pytest.param(rest, id="every", marks=pytest.mark.slow)
    return pytest.mark.parametrize("settings", params)


@cache
def traced(config, dtype, params_dtype=jnp.float32):
    """The equations of the network; those of a layer carry its name."""

    def cast(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, params_dtype)

    params = jax.tree.map(cast, param_shapes(config))
    net = network(config, dtype)
    apply = jax.make_jaxpr(lambda params, inputs: net.apply({"params": params}, *inputs))
    return list(every_equation(apply(params, example(config)).jaxpr))


def named(equation):
    """Where an equation stands: the network and the layers inside it, outermost first."""
    return str(equation.source_info.name_stack).split("/")


def leaves(config):
    return jax.tree_util.tree_leaves_with_path(param_shapes(config))


@pytest.mark.slow
@of_configs(FEW + HALF_PARAMS, LAYERS, NARROW)
def test_layers_multiply_in_the_precision_that_they_are_for(settings, subtests):
    for config, dtype, params_dtype in settings:
        seen = {}
        with subtests.test(config=config, dtype=dtype, params_dtype=params_dtype):
            for equation in traced(config, dtype, params_dtype):
                if equation.primitive.name in ("conv_general_dilated", "dot_general"):
                    seen[named(equation)[-1]] = equation.invars[0].aval.dtype
                    assert len({v.aval.dtype for v in equation.invars}) == 1
            layers = {path[-2].key for path, _ in leaves(config) if path[-1].key == "kernel"}
            assert layers <= set(seen)
            for layer in layers:
                assert seen[layer] == (jnp.float32 if layer in FLOAT32 else dtype), layer


@of_configs(FEW + HALF_PARAMS, product(CONFIGS, [BF16], [F32, BF16]))
def test_norms_softmax_and_sinusoids_are_float32(settings, subtests):
    for setting in settings:
        ours = {"rsqrt": 0, "exp": 0, "cos": 0, "sin": 0, "reduce_sum": 0}
        with subtests.test(setting):
            for equation in traced(*setting):
                if (kind := equation.primitive.name) in ours:
                    ours[kind] += 1
                    # Down is a mean of 4 pixels that the blocks take in their own precision.
                    if kind != "reduce_sum" or equation.params["axes"] != (2, 4):
                        assert equation.invars[0].aval.dtype == jnp.float32, equation
            norms = sum(path[-1].key == "scale" for path, _ in leaves(setting[0]))
            assert ours["rsqrt"] == norms and min(ours.values()) > 0


@of_configs(HALF_PARAMS, product(CONFIGS, [BF16], [BF16, F16]))
def test_norms_multiply_by_their_params_in_float32(settings, subtests):
    norms = ("norm", "in_layers_0", "out_0")
    for setting in settings:
        scales = 0
        with subtests.test(setting):
            for equation in traced(*setting):
                if equation.primitive.name in ("mul", "add") and named(equation)[-1] in norms:
                    scales += 1
                    out = equation.outvars[0].aval.dtype
                    assert out in (jnp.float32, jnp.int32), equation
            assert scales


@of_configs(FEW, product(CONFIGS, [BF16], [F32]))
def test_params_are_made_in_float32(settings, subtests):
    for config, dtype, _ in settings:
        with subtests.test(config):
            init = network(config, dtype).init
            made = jax.eval_shape(init, jax.random.key(0), *example(config))
            assert made["params"] == param_shapes(config)
            assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIGS["unet_scale_shift"], CONFIGS["attention"]])
def test_recomputed_blocks_give_the_same_numbers(config):
    config = replace(config, num_res_blocks=0, dropout=0.3)
    # Over the few pixels of the example a norm would blow up the rounding.
    _, *inputs = example(config)
    params, key = random_params(config), jax.random.key(0)
    x = jax.random.normal(key, (1, 8, 8, 3))

    def gradients(remat):
        net = network(config, remat=remat)

        @partial(jax.jit, compiler_options=HURRY)
        def evaluate(params, x):
            def loss(params, x):
                rngs = {"dropout": key}
                out = net.apply({"params": params}, x, *inputs, train=True, rngs=rngs)
                return jnp.square(out).sum(), out

            return jax.grad(loss, (0, 1), has_aux=True)(params, x)

        return evaluate(params, x)

    (plain, out), (recomputed, same) = gradients(False), gradients(True)
    # The programs differ, and so does what XLA fuses: the rounding may.
    np.testing.assert_allclose(out, same, rtol=0, atol=1e-5)
    # A bias that the next norm takes away has no gradient but rounding.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest),
        recomputed,
        plain,
    )


def some_of(name, **changes):
    return replace(CONFIGS[name], num_res_blocks=0, **changes)


@pytest.mark.parametrize(
    "config",
    [
        some_of("attention", channel_mult=(1,)),
        pytest.param(some_of("unet_scale_shift"), marks=pytest.mark.slow),
        pytest.param(some_of("attention"), marks=pytest.mark.slow),
    ],
)
def test_recomputed_blocks_start_from_the_same_params(config):
    plain, same = (
        jax.jit(network(config, remat=remat).init, compiler_options=HURRY)(KEY, *example(config))
        for remat in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, same)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("unet_scale_shift", "attention"), id="few"),
        pytest.param(CONFIGS, id="every", marks=pytest.mark.slow),
    ],
)
def test_every_block_is_recomputed(names, subtests):
    for name in names:
        config = CONFIGS[name]
        net, inputs = network(config, remat=True), example(config)

        def loss(params, x, net=net, inputs=inputs):
            return net.apply({"params": params}, x, *inputs[1:]).sum()

        with subtests.test(name):
            jaxpr = jax.make_jaxpr(loss)(param_shapes(config), inputs[0]).jaxpr
            recomputed = [e for e in every_equation(jaxpr) if "remat" in e.primitive.name]
            kinds, params = {"emb_layers_1", "qkv"}, leaves(config)
            blocks = {path[0].key for path, _ in params if kinds & {part.key for part in path}}
            assert len(recomputed) == len(blocks) > 4
