"""CLIP's text encoders: the network against NumPy, its files, and what may be asked of it."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_models import BIG_G, CLIP_L, TOKENS, tensors_of

from skipjax.conditioners import TextEncoder
from skipjax.models import CLIPTextConfig, param_shapes
from skipjax.models.clip_text import end_of_text
from skipjax.weights import clip_text, registry

END = TOKENS - 1
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": TOKENS}
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def by_numpy(tensors, config, ids):
    """Hidden states before each layer and after the last, its norm, and the pooled vector."""

    def linear(h, name):
        return h @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)

    def norm(h, name):
        h = h - h.mean(-1, keepdims=True)
        h = h / np.sqrt((h**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return h * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def activation(h):
        if config.hidden_act == "quick_gelu":
            return h / (1 + np.exp(-1.702 * h))
        return h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2

    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
    length, heads = ids.shape[1], config.num_attention_heads
    h = tensors["embeddings.token_embedding.weight"][ids]
    h, states = h + tensors["embeddings.position_embedding.weight"][:length], []
    for i in range(config.num_hidden_layers):
        states.append(h)
        at, y = f"encoder.layers.{i}", norm(h, f"encoder.layers.{i}.layer_norm1")
        q, k, v = (
            linear(y, f"{at}.self_attn.{name}_proj").reshape(*ids.shape, heads, -1)
            for name in "qkv"
        )
        logits = np.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(np.where(np.tri(length, dtype=bool), logits, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bhlm,bmhd->blhd", weights, v).reshape(h.shape)
        h = h + linear(y, f"{at}.self_attn.out_proj")
        y = activation(linear(norm(h, f"{at}.layer_norm2"), f"{at}.mlp.fc1"))
        h = h + linear(y, f"{at}.mlp.fc2")
    normed = norm(h, "final_layer_norm")
    ends = normed[np.arange(len(ids)), ids.argmax(1)]
    if config.with_projection:
        ends = linear(ends, "text_projection")
    return [*states, h], normed, ends


def encoder_of(fields, seed=0):
    config = clip_text.config_of(fields | SMALL | {"num_attention_heads": 2})
    tensors = tensors_of(config, seed)
    return TextEncoder(clip_text.to_params(tensors, config), config), tensors


def tokens(length):
    ids = np.random.default_rng(1).integers(0, END, (2, length))
    ids[0, length // 2 :] = END
    ids[1, -1] = END
    return ids


@pytest.mark.parametrize("fields", [CLIP_L, BIG_G], ids=["clip_l", "big_g"])
def test_it_computes_what_is_written_down_in_numpy(fields):
    encoder, tensors = encoder_of(fields)
    ids = tokens(6)
    states, normed, pooled = by_numpy(tensors, encoder.network, ids)
    for ours, theirs in (
        (encoder.apply(ids), normed),
        (encoder.pooled(ids), pooled),
        (encoder.hidden(ids, 1), states[-2]),
    ):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max() <= 5e-5 * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("kept", [jnp.bfloat16, jnp.float16])
def test_other_precisions_are_near(kept):
    encoder, _ = encoder_of(CLIP_L)
    ids = tokens(6)
    exact = np.asarray(encoder.apply(ids))
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, kept), encoder.params)
    ours = replace(encoder, params=rounded).apply(ids)
    assert ours.dtype == np.float32
    assert 0 < np.abs(ours - exact).max() <= (0.1 if kept == jnp.bfloat16 else 0.01)


def test_where_texts_end():
    ids = jnp.array([[3, 1, 9, 2, 9], [3, 4, 4, 4, 4], [10, 9, 2, 2, 2]])

    def ends(eos):
        return end_of_text(replace(CLIPTextConfig(), eos_token_id=eos), ids).tolist()

    assert ends(2) == [2, 1, 0]  # the greatest
    assert ends(9) == [2, 0, 1]  # the first of its kind


@pytest.mark.parametrize("name", ["clip_l_text", "clip_bigg_text_proj"])
def test_released_encoders_have_their_tensors(shared, name):
    known = json.loads((shared / "keys" / "diffusers" / f"{name}.json").read_text())
    config = registry.CLASSES[known["cls"]](known["config"])
    files = {key: np.broadcast_to(np.float32(0), shape) for key, shape in known["keys"].items()}
    bare = {key.removeprefix("text_model."): value for key, value in files.items()}
    old = {f"text_model.{key}": value for key, value in bare.items() if "projection" not in key}
    old |= {key: value for key, value in bare.items() if "projection" in key}
    old["text_model.embeddings.position_ids"] = np.arange(77)[None]
    for tensors in (files, bare, old):
        params = clip_text.to_params(tensors, config)  # refuses what is missing or left over
        leaves = jax.tree.leaves(params)
        assert len(leaves) == known["tensors"]
        assert sum(leaf.size for leaf in leaves) == known["params"]
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, param_shapes(config))


def test_whole_clips_and_projections_that_are_not_used():
    encoder, tensors = encoder_of(CLIP_L)
    more = {f"text_model.{key}": value for key, value in tensors.items()}
    more |= {"logit_scale": np.ones(()), "visual_projection.weight": np.ones((2, 2))}
    more |= {"vision_model.embeddings.position_ids": np.ones((1, 5)), "text_projection.weight": 0}
    params = clip_text.to_params(more, encoder.network)
    jax.tree.map(np.testing.assert_array_equal, params, encoder.params)
    nested = {"text_config": CLIP_L | {"bad_words_ids": None}, "projection_dim": 8}
    config = clip_text.config_of(nested | {"vision_config": {"hidden_size": 5}})
    assert config == replace(clip_text.config_of(CLIP_L), projection_dim=8)


def test_what_a_config_says():
    config = clip_text.config_of({})
    assert (config.hidden_size, config.eos_token_id, config.with_projection) == (512, 49407, False)
    assert clip_text.config_of(BIG_G).with_projection
    assert registry.CLASSES["CLIPTextModelWithProjection"]({}).with_projection
    # Tokens were added: the greatest is no longer the end.
    assert clip_text.config_of({"eos_token_id": 2, "vocab_size": 49409}).eos_token_id == 49407
    assert clip_text.config_of({"eos_token_id": 2}).eos_token_id == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu': it must be one of quick_gelu, gelu"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "it must be a multiple of num_attention"),
        (
            {"num_hidden_layers": 0},
            "num_hidden_layers is 0: it must be a whole number of at least",
        ),
        ({"vocab_size": "many"}, "vocab_size is 'many', a str: it must be a whole number"),
    ],
)
def test_configs_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        clip_text.config_of(fields)


def test_files_that_do_not_fit_say_why():
    encoder, tensors = encoder_of(CLIP_L)
    config = encoder.network
    with pytest.raises(ValueError, match="is not one of CLIP's text encoders"):
        clip_text.to_params({"conv_in.weight": np.ones(3)}, config)
    with pytest.raises(ValueError, match="the file has 2 layers, the config 3"):
        clip_text.to_params(tensors, replace(config, num_hidden_layers=3))
    with pytest.raises(ValueError, match="the file has no projection, and the config with_proj"):
        clip_text.to_params(tensors, replace(config, with_projection=True))


@pytest.mark.parametrize(
    ("ids", "skip", "message"),
    [
        ([[0, TOKENS]], 0, f"ids span 0 .. {TOKENS}: they must be in 0 .. {TOKENS - 1}"),
        ([[-1]], 0, "ids span -1 .. -1"),
        ([0, 1], 0, r"ids is int32 \[2\]: it must be whole numbers \[batch, tokens\]"),
        ([[0.5]], 0, r"ids is float\d\d \[1, 1\]"),
        (np.zeros((1, 78), int), 0, "ids has 78 tokens: the encoder has positions for 1 .. 77"),
        ([[0]], 3, "skip is 3: it must be in 0 .. 2"),
    ],
)
def test_tokens_that_are_refused(ids, skip, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(CLIP_L)[0].hidden(ids, skip)
