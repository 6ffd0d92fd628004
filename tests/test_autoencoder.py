"""Autoencoders: against NumPy, their files, slices, squares, devices, and what may be asked."""

import json
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoder_by_numpy import Autoencoder
from autoencoder_cases import CASES, KL, TINY, codec_of, latents, pictures, tensors_of

from skipjax import sharding
from skipjax.codecs import AutoencoderKL, images
from skipjax.codecs.autoencoder import program
from skipjax.codecs.tiles import in_tiles
from skipjax.models import AutoencoderKLConfig, AutoencoderTinyConfig, param_shapes
from skipjax.weights import autoencoder, registry

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
FEW = ["kl"]
ATOL = 1e-6


@pytest.fixture(scope="module")
def codec():
    return codec_of(KL)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FEW else pytest.mark.slow)
        for n, fields in CASES.items()
        if fields["_class_name"] == "AutoencoderKL"
    ],
)
def test_both_halves_compute_what_is_written_down_in_numpy(name):
    codec = codec_of(CASES[name])
    reference = Autoencoder(tensors_of(codec.network), CASES[name])
    x, z = pictures(codec.network), latents(codec.network)
    mean, log_variance = np.split(reference.encode(np.moveaxis(x, -1, 1)), 2, axis=1)
    for ours, theirs in zip(codec.encode_moments(x), (mean, log_variance), strict=True):
        close(ours, theirs)
    close(codec.encode(x), np.moveaxis(codec.network.scaled(np.moveaxis(mean, 1, -1)), -1, 1))
    close(codec.decode(z), reference.decode(np.moveaxis(codec.network.unscaled(z), -1, 1)))


def close(ours, theirs):
    theirs = np.moveaxis(theirs, 1, -1)
    assert ours.shape == theirs.shape and ours.dtype == jnp.float32
    assert np.abs(np.asarray(ours) - theirs).max() <= 5e-5 * np.abs(theirs).max()


def test_latents_are_scaled_shifted_and_back(subtests):
    for name in ("kl", "sixteen_channels", "playground", "tiny_scaled"):
        with subtests.test(name):
            network, fields = autoencoder.config_of(CASES[name]), CASES[name]
            z = latents(network)
            scaled = network.scaled(z)
            np.testing.assert_allclose(network.unscaled(scaled), z, atol=1e-5)
            shift = np.float32(fields.get("latents_mean", fields.get("shift_factor", 0)))
            std = np.float32(fields.get("latents_std", 1))
            expected = fields.get("scaling_factor", 0.18215) * (z - shift) / std
            np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_latents_are_drawn_around_the_mean_by_a_key(codec):
    x, key = pictures(codec.network), jax.random.key(5)
    mean, log_variance = codec.encode_moments(x)
    noise = jax.random.normal(key, mean.shape)
    drawn = 0.18215 * (mean + jnp.exp(log_variance / 2) * noise)
    np.testing.assert_allclose(codec.encode(x, key), drawn, atol=ATOL)
    np.testing.assert_allclose(codec.encode(x), 0.18215 * mean, atol=ATOL)


def test_log_variances_are_cut_off(codec):
    params = jax.tree.map(np.copy, codec.params)
    params["quant_conv"]["bias"][4:] = [100, -100, 0, 0]
    log_variance = replace(codec, params=params).encode_moments(pictures(codec.network))[1]
    assert (log_variance[..., 0] == 20).all() and (log_variance[..., 1] == -30).all()


def test_a_picture_does_not_depend_on_those_decoded_with_it(codec):
    z = latents(codec.network, number=3)
    many = np.asarray(codec.decode(z))
    for i in range(3):
        np.testing.assert_allclose(codec.decode(z[i : i + 1])[0], many[i], atol=ATOL)
    others = np.concatenate([z[:1], 2 * z[1:]])
    np.testing.assert_array_equal(codec.decode(others)[0], many[0])


@pytest.mark.slow
def test_the_memory_is_that_of_one_picture(codec):
    one, many = (codec.memory((n, 16, 16, 4)) for n in (2, 8))
    pixels = 32 * 32 * 3 + 16 * 16 * 4
    assert many - one < 2 * 4 * 6 * pixels < one
    assert replace(codec, params=None).memory((2, 16, 16, 4)) == one


@pytest.mark.slow
def test_every_device_decodes_its_own(codec, subtests):
    z = latents(codec.network, number=5)
    expected = codec.decode(z)
    mesh = sharding.mesh(4, 2)
    split = sharding.shardings(mesh, codec.params)
    assert any(not each.is_fully_replicated for each in jax.tree.leaves(split))
    over = sharding.pictures(sharding.mesh())
    for what, params, given in [
        ("latents on a mesh, as many as fit", None, sharding.spread(z, over)),
        ("weights split over a mesh", split, z),
    ]:
        with subtests.test(what):
            on = codec
            if params is not None:
                on = replace(codec, params=jax.device_put(codec.params, params))
            out = on.decode(given)
            np.testing.assert_allclose(out[:5], expected, atol=1e-5)
            assert len(out) == len(given)
            if len(given) == 8:
                assert {shard.data.shape[0] for shard in out.addressable_shards} == {1}


def test_other_weights_and_pictures_run_the_same_program(codec):
    program.clear_cache()
    for scale in (1.0, 2.0):
        params = jax.tree.map(lambda leaf, scale=scale: leaf * scale, codec.params)
        for seed in (1, 2):
            replace(codec, params=params).decode(latents(codec.network, seed=seed))
    assert program._cache_size() == 1


def test_squares_of_what_sees_no_neighbours_are_exact(subtests):
    """Weights of overlapping squares add to 1 everywhere."""

    def larger(x):
        return 3 * jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

    def smaller(x):
        return x[:, ::2, ::2] + x[:, 1::2, 1::2]

    for sizes in [(8, 8), (14, 17), (5, 40)]:
        with subtests.test(sizes):
            x = np.random.default_rng(0).normal(size=(1, *sizes, 2)).astype(np.float32)
            np.testing.assert_allclose(in_tiles(larger, 8, 1, 2)(x), larger(x), atol=1e-5)
            x = larger(x)
            np.testing.assert_allclose(in_tiles(smaller, 8, 2, 1)(x), smaller(x), atol=1e-4)


@pytest.mark.slow
def test_squares_are_roughly_the_whole(codec):
    smooth = np.linspace(-1, 1, 24, dtype=np.float32)
    z = np.stack([smooth[:, None] * smooth[None], smooth[:, None] + 0 * smooth[None]] * 2, -1)
    whole, tiled = codec.decode(z[None]), replace(codec, tile=16).decode(z[None])
    assert whole.shape == tiled.shape == (1, 48, 48, 3)
    error = np.abs(np.asarray(whole - tiled)).mean() / np.asarray(whole).std()
    assert 0 < error < 0.5
    small = replace(codec, tile=32)
    np.testing.assert_allclose(small.decode(z[None]), whole, atol=ATOL)
    x = pictures(codec.network, (40, 32), 1)
    z, tiled = codec.encode(x), replace(codec, tile=16).encode(x)
    assert z.shape == tiled.shape and np.abs(np.asarray(z - tiled)).mean() < np.asarray(z).std()


@pytest.mark.slow
def test_half_precision_is_of_weights_or_of_bfloat16(codec):
    z = latents(codec.network)
    exact = np.asarray(codec.decode(z))
    spread = exact.std()
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float16), codec.params)
    stored = replace(codec, params=half).decode(z)
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), half)
    np.testing.assert_allclose(stored, replace(codec, params=rounded).decode(z), atol=1e-5)
    computed = replace(codec, dtype="bf16").decode(z)
    assert computed.dtype == jnp.float32
    assert 1e-4 < np.abs(np.asarray(computed) - exact).max() / spread < 0.2


def test_an_overflow_is_never_a_picture(codec):
    params = jax.tree.map(np.copy, codec.params)
    params["decoder"]["conv_out"]["bias"][0] = np.inf
    black = replace(codec, params=params).decode(latents(codec.network))
    with pytest.raises(FloatingPointError, match="samples 3, 7 are NaN .*float16 is too narrow"):
        images.finite(black, np.array([3, 7]))
    with pytest.raises(ValueError, match="there is no picture"):
        images.to_uint8(black)


@pytest.mark.parametrize("name", ["sdxl_vae", "taesd"])
def test_released_autoencoders_have_their_tensors(shared, name):
    known = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    config = autoencoder.config_of(known["config"] | {"_class_name": known["cls"]})
    files = {key: np.broadcast_to(np.float32(0), shape) for key, shape in known["keys"].items()}
    params = autoencoder.to_params(files, config)  # refuses what is missing or left over
    leaves = jax.tree.leaves(params)
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (known["tensors"], known["params"])
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, param_shapes(config))
    assert config.factor == 8


def test_older_files_are_read_too():
    config = autoencoder.config_of(KL)
    tensors = tensors_of(config)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key):
        for new, old in older.items():
            key = key.replace(f".{new}.", f".{old}.")
        return key

    files = {name(key): value for key, value in tensors.items()}
    assert sum(key not in tensors for key in files) == 16
    linear = tuple(f".{old}.weight" for old in older.values())
    square = {
        key: value[:, :, None, None] if key.endswith(linear) else value
        for key, value in files.items()
    }
    expected = autoencoder.to_params(tensors, config)
    for each in (files, square):
        jax.tree.map(np.testing.assert_array_equal, autoencoder.to_params(each, config), expected)


def test_what_cannot_be_encoded_or_decoded_is_refused(codec, subtests):
    x, z = pictures(codec.network), latents(codec.network)
    for run, given, message in [
        (codec.decode, z[..., :3], r"latents are \(2, 4, 6, 3\): .* decodes \[B, h, w, 4\]"),
        (codec.decode, z[0], r"latents are \(4, 6, 4\)"),
        (codec.decode, z[:0], r"latents are \(0, 4, 6, 4\)"),
        (codec.decode, np.int32(z), "latents are int32: they must be float"),
        (codec.encode, x[..., :1], r"samples are \(2, 8, 12, 1\): .* encodes \[B, H, W, 3\]"),
        (codec.encode, np.uint8(x), r"samples are uint8: they must be float: .* x / 127.5 - 1"),
        (codec.encode, x[:, :7], r"size is \(7, 12\): height and width must be multiples of 2"),
        (codec.encode_moments, x[:, :, :5], r"size is \(8, 5\)"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            run(given)
    assert codec.shape((8, 8, 4), (6, 10)) == (3, 5, 4)
    with pytest.raises(ValueError, match=r"size is \(6, 9\): .* multiples of 2"):
        codec.shape((8, 8, 4), (6, 9))
    for options, message in [
        ({"dtype": "float16"}, "dtype is float16: it must be float32 or bfloat16"),
        ({"tile": 4}, "tile is 4: it must be a whole number of at least 8"),
    ]:
        with subtests.test(options), pytest.raises(ValueError, match=message):
            replace(codec, **options)


def test_configs_that_nothing_can_be_built_from_are_refused(subtests):
    two = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
    for fields, message in [
        (KL | {"_class_name": "VQModel"}, "'VQModel': it must be one of AutoencoderKL, Auto"),
        (KL | {"down_block_types": two + two}, "down_block_types has 4 entries, and block_out"),
        (KL | {"up_block_types": two}, "holds 'DownEncoderBlock2D', which is not supported"),
        (KL | {"block_out_channels": [8, 18]}, "holds 18: widths must be multiples of .* = 4"),
        (KL | {"act_fn": "tanh"}, "act_fn is 'tanh': it must be one of silu"),
        (KL | {"latents_mean": [1.0]}, "latents_mean has 1 numbers: .* each of the 4 channels"),
        (KL | {"latents_std": [1.0, 1.0, 0.0, 1.0]}, "they must be positive"),
        (KL | {"scaling_factor": 0}, "scaling_factor is 0: it must be positive"),
        (KL | {"latent_channels": "4"}, "latent_channels is '4', a str: it must be a whole num"),
        (KL | {"layers_per_block": 0}, "layers_per_block is 0: it must be at least 1"),
        (TINY | {"num_decoder_blocks": [1]}, "num_decoder_blocks 1, and num_encoder_blocks 2"),
        (TINY | {"encoder_block_out_channels": [8, 16]}, r"\(8, 16\): they must be alike"),
        (TINY | {"upsample_fn": "bilinear"}, "upsample_fn is 'bilinear': it must be nearest"),
        (TINY | {"act_fn": "tanh"}, "act_fn is 'tanh': it must be one of"),
        (TINY | {"num_encoder_blocks": [1, -1]}, "they must be at least 0"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            autoencoder.config_of(fields)
    with pytest.warns(UserWarning, match="the config of AutoencoderKL holds fancy: no option"):
        assert autoencoder.config_of(KL | {"fancy": 1}) == autoencoder.config_of(KL)
    assert autoencoder.config_of({}) == AutoencoderKLConfig()
    assert autoencoder.config_of({"_class_name": "AutoencoderTiny"}) == AutoencoderTinyConfig()


def test_tensors_of_another_architecture_are_refused_in_words(subtests):
    config, tiny = autoencoder.config_of(KL), autoencoder.config_of(TINY)
    tensors = tensors_of(config)
    for other, message in [
        (replace(config, latent_channels=16), "the file has 4 channels of latents, the config 16"),
        (replace(config, use_quant_conv=False), "unexpected: quant_conv"),
        (replace(config, layers_per_block=2), "missing: encoder.down_blocks.0.resnets.1.norm1"),
        (tiny, "not one of diffusers' AutoencoderTiny: decoder.layers.0.weight is missing"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            autoencoder.to_params(tensors, other)


def test_cards_describe_them(subtests):
    for name in ("kl", "playground", "tiny"):
        with subtests.test(name):
            config = autoencoder.config_of(CASES[name])
            made = replace(autoencoder.model(config, "vae"), dtype="bfloat16", tile=16)
            card = json.loads(json.dumps(registry.describe(made)))
            assert registry.build("codec", card) == made
    with pytest.raises(ValueError, match="codec: tile is 3: it must be a whole number"):
        registry.build("codec", card | {"tile": 3})


def test_codecs_are_pytrees_of_their_weights(codec):
    leaves, structure = jax.tree.flatten(codec)
    assert len(leaves) == len(jax.tree.leaves(codec.params))
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, AutoencoderKL) and again.network == codec.network
    assert structure != jax.tree.structure(replace(codec, tile=16))
    like = jax.ShapeDtypeStruct((1, 4, 4, 4), jnp.float32)
    assert jax.eval_shape(lambda c, z: c.decode(z), codec, like).shape == (1, 8, 8, 3)
    drawn = jax.eval_shape(AutoencoderKL(None, codec.network).init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes(drawn, codec.params)
    assert "0." not in repr(codec).replace("0.18215", "")
