"""What the networks compute in which precision, and what they keep for the backward pass."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import every_equation
from reference import CASES, Case, random_params

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
HALVES = [jnp.bfloat16, jnp.float16]
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
# Layers that compute in float32 however the blocks do: embeddings, and what follows the blocks.
FLOAT32 = {"time_embed_0", "time_embed_2", "emb_layers_1", "out_0", "out_2", "out_3"}
FLOAT32 |= {"qkv_proj", "c_proj"}


pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


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


@each_config
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("half_params", [False, True])
def test_layers_multiply_in_the_precision_that_they_are_for(config, dtype, half_params):
    # Wide convolutions are loops on CPUs, in which equations go without the layer's name.
    config = replace(config, channel_mult=(1, 1))
    seen, params_dtype = {}, dtype if half_params else jnp.float32
    for equation in traced(config, dtype, params_dtype):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            seen[named(equation)[-1]] = equation.invars[0].aval.dtype
            assert {v.aval.dtype for v in equation.invars} == {equation.invars[0].aval.dtype}
    layers = {path[-2].key for path, leaf in leaves(config) if path[-1].key == "kernel"}
    assert layers <= set(seen)
    for layer in layers:
        assert seen[layer] == (jnp.float32 if layer in FLOAT32 else dtype), layer


def leaves(config):
    return jax.tree_util.tree_leaves_with_path(param_shapes(config))


@each_config
@pytest.mark.parametrize("params_dtype", [jnp.float32, jnp.bfloat16])
def test_norms_softmax_and_sinusoids_are_float32(config, params_dtype):
    equations = traced(config, jnp.bfloat16, params_dtype)
    ours = {"rsqrt": 0, "exp": 0, "cos": 0, "sin": 0, "reduce_sum": 0}
    for equation in equations:
        if (kind := equation.primitive.name) in ours:
            ours[kind] += 1
            # Down is a mean of 4 pixels that the blocks take in their own precision.
            if kind != "reduce_sum" or equation.params["axes"] != (2, 4):
                assert equation.invars[0].aval.dtype == jnp.float32, equation
    norms = sum(path[-1].key == "scale" for path, _ in leaves(config))
    assert ours["rsqrt"] == norms and min(ours.values()) > 0


@each_config
@pytest.mark.parametrize("params_dtype", HALVES)
def test_norms_multiply_by_their_params_in_float32(config, params_dtype):
    scales = 0
    for equation in traced(config, jnp.bfloat16, params_dtype):
        layer = named(equation)[-1]
        if equation.primitive.name in ("mul", "add") and layer in ("norm", "in_layers_0", "out_0"):
            scales += 1
            assert equation.outvars[0].aval.dtype in (jnp.float32, jnp.int32), equation
    assert scales


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_a", "unet_c", "classifier_f", "classifier_g"])
def test_params_of_half_precision_are_cast_up_where_it_counts(goldens, name):
    # These weights are bfloat16 numbers: only arithmetic in bfloat16 could change the result.
    case = Case(goldens / CASES[name])
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), case.params)
    for dtype in (jnp.float32, jnp.bfloat16):
        expected = case.run(dtype=dtype)
        out = case.run(dtype=dtype, params=half)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, expected)


@each_config
def test_params_are_made_in_float32(config):
    made = jax.eval_shape(network(config, jnp.bfloat16).init, jax.random.key(0), *example(config))
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

        @jax.jit
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


@pytest.mark.parametrize("config", [CONFIGS["unet_scale_shift"], CONFIGS["attention"]])
def test_recomputed_blocks_start_from_the_same_params(config):
    config = replace(config, num_res_blocks=0)
    plain, same = (
        jax.jit(network(config, remat=remat).init)(jax.random.key(0), *example(config))
        for remat in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, same)


@each_config
def test_every_block_is_recomputed(config):
    net, inputs = network(config, remat=True), example(config)

    def loss(params, x):
        return net.apply({"params": params}, x, *inputs[1:]).sum()

    jaxpr = jax.make_jaxpr(loss)(param_shapes(config), inputs[0]).jaxpr
    recomputed = [e for e in every_equation(jaxpr) if "remat" in e.primitive.name]
    kinds = {"emb_layers_1", "qkv"}
    blocks = {path[0].key for path, _ in leaves(config) if kinds & {part.key for part in path}}
    assert len(recomputed) == len(blocks) > 4
