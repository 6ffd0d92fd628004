"""Prompts to conditions: what is encoded, how often, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_vocabulary
from text_models import BIG_G, CLIP_L, tensors_of

from skipjax.conditioners import ClipText, Joint, Labels, Tokenizer, remember
from skipjax.conditioners.clip import encoding, text_encoder
from skipjax.conditioners.clip.remembered import Memo
from skipjax.weights import clip_text

KEY = jax.random.key(0)
LITTLE = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def conditioner_of(root, *kinds, **options):
    """Random encoders; the last token of their vocabulary ends a text."""
    networks = [
        clip_text.config_of(fields | LITTLE | {"num_hidden_layers": 2}) for fields in kinds
    ]
    pads = [None, "!"][: len(kinds)]
    tokenizers = [Tokenizer.read(tiny_vocabulary.write(root / str(pad), pad)) for pad in pads]
    params = [clip_text.to_params(tensors_of(network), network) for network in networks]
    params = jax.tree.map(jnp.asarray, params)
    return ClipText(tuple(params), tuple(networks), tuple(tokenizers), **options)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return conditioner_of(tmp_path_factory.mktemp("sd1"), CLIP_L)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return conditioner_of(tmp_path_factory.mktemp("xl"), CLIP_L, BIG_G, zeros_for_empty=True)


def encode(conditioner, prompt, num=None, **words):
    num = num or (1 if isinstance(prompt, str) else len(prompt))
    return conditioner.encode({"prompt": prompt} | words, KEY, np.arange(num))


def assert_same(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=tolerance)


def test_what_the_encoders_say_side_by_side(xl):
    found = encode(xl, ["a red fox", "wow!"])
    assert {key: value.shape for key, value in found.items()} == {
        "text": (2, 77, 16),
        "pooled": (2, 24),
    }
    for i, encoder in enumerate(xl.encoders):
        ids = [text_ids(xl, "a red fox", i)]
        hidden = encoder.hidden(ids, 1)[0]
        np.testing.assert_allclose(found["text"][0, :, 8 * i : 8 * i + 8], hidden, atol=1e-6)
    np.testing.assert_allclose(found["pooled"][0], encoder.pooled(ids)[0], atol=1e-6)


@pytest.mark.slow
def test_one_prompt_for_all_or_one_for_each(sd1):
    found = encode(sd1, ["a fox", "a cat", "a fox"])
    assert found.keys() == {"text"} == {*sd1.gives}
    np.testing.assert_array_equal(found["text"][0], found["text"][2])
    assert_same(encode(sd1, "a fox", 2), {"text": found["text"][::2]})
    assert_same(encode(sd1, np.array(["a fox", "a cat"])), {"text": found["text"][:2]})


def test_each_distinct_prompt_is_encoded_once_by_programs_that_are_there(sd1, monkeypatch):
    given = []
    states = text_encoder.TextEncoder.states

    def counted(encoder, ids, skip=0):
        given.append(len(ids))
        return states(encoder, ids, skip)

    monkeypatch.setattr(text_encoder.TextEncoder, "states", counted)
    texts = [f"a fox {i}" for i in range(11)]
    encode(sd1, texts[:3] * 5)
    assert given == [4]
    encode(sd1, texts)
    assert given == [4, encoding.LARGEST, encoding.LARGEST]
    programs = text_encoder._states._cache_size()
    encode(sd1, [f"{text}, snow" for text in texts])
    encode(sd1, ["very", "other", "words", "red"])
    sd1.null(encode(sd1, texts[:4]), ["dog", "cat", "snow"] + ["a"])
    assert text_encoder._states._cache_size() == programs


def test_negative_prompts(sd1, xl):
    for conditioner in (sd1, replace(xl, zeros_for_empty=False)):
        told = encode(conditioner, ["a fox", "a cat"])
        assert_same(conditioner.null(told), encode(conditioner, "", 2))
        assert_same(conditioner.null(told, "dog"), encode(conditioner, "dog", 2))
        assert_same(conditioner.null(told, ["dog", ""]), encode(conditioner, ["dog", ""]))


def test_a_null_within_a_program(sd1):
    told = encode(sd1, ["a fox", "a cat"])
    found = jax.jit(lambda conditioner, told: conditioner.null(told, "dog"))(sd1, told)
    assert_same(found, encode(sd1, "dog", 2))


@pytest.mark.slow
def test_encoders_whose_weights_lie_on_a_mesh(xl):
    mesh = jax.make_mesh((4,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(leaf):
        axes = [None] * (leaf.ndim - 1) + ["tensor" if leaf.shape[-1] % 4 == 0 else None]
        return jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*axes)))

    assert_same(
        encode(jax.tree.map(spread, xl), ["a fox", "a cat"]), encode(xl, ["a fox", "a cat"])
    )


def test_zeros_stand_for_no_negative_prompt(xl):
    told = encode(xl, ["a fox", "a cat"])
    assert_same(xl.null(told), jax.tree.map(jnp.zeros_like, told), 0)
    assert_same(xl.null(told, ""), encode(xl, "", 2))
    joint = Joint((xl, Labels(3, null_label=2)))
    both = joint.encode({"prompt": "a fox", "label": 1}, KEY, np.arange(2))
    null = joint.null(both)
    assert null is not None and null["label"].tolist() == [2, 2] and not null["pooled"].any()
    null = joint.null(both, "dog")  # of which classes are not told
    assert null is not None and null["label"].tolist() == [2, 2]
    np.testing.assert_allclose(null["text"], encode(xl, "dog", 2)["text"], atol=1e-6)


def test_clip_skip_is_of_prompts_alone(sd1, xl):
    for conditioner, unread, normed in ((sd1, 0, True), (xl, 1, False)):
        skipping = replace(conditioner, clip_skip=1)
        told = encode(skipping, "a fox")
        ids = [text_ids(skipping, "a fox")]
        states = skipping.encoders[0].states(np.array(ids), 1 + unread)
        expected = states.normed if normed else states.hidden
        np.testing.assert_allclose(told["text"][..., :8], expected, atol=1e-6)
        assert_same(skipping.null(told, "dog"), encode(conditioner, "dog"))
        with pytest.raises(ValueError, match=f"clip_skip is 3: .* in 0 .. {2 - unread}"):
            replace(conditioner, clip_skip=3)


def text_ids(conditioner, prompt, which=0):
    """The tokens that an encoder is given."""
    tokenizer = conditioner.tokenizers[which]
    start, end, pad = tokenizer.frame
    words = tokenizer.split(prompt)[0]
    return [start, *words, end, *[pad] * (75 - len(words))]


def test_weights_multiply_tokens_and_keep_the_mean(xl):
    weighted = replace(xl, weighted=True)
    plain = encode(xl, "a red fox")
    found = encode(weighted, "a (red:1.5) fox")
    expected = np.array(plain["text"])
    expected[0, 2] *= 1.5
    for half in (np.s_[..., :8], np.s_[..., 8:]):
        expected[half] *= np.mean(plain["text"][half]) / np.mean(expected[half])
    assert_same(found, {"text": expected, "pooled": plain["pooled"]}, 1e-4)
    assert_same(encode(weighted, "a red fox"), plain)


def test_long_prompts_and_negative_ones_are_of_as_many_chunks(xl):
    long = replace(xl, long=True)
    told = encode(long, ["fox " * 80 + "BREAK snow", "a cat"])
    assert told["text"].shape == (2, 3 * 77, 16)
    parts = [encode(xl, part)["text"][0] for part in ("a cat", "", "")]
    np.testing.assert_allclose(told["text"][1], np.concatenate(parts), atol=1e-6)
    np.testing.assert_allclose(told["pooled"][1], encode(xl, "a cat")["pooled"][0], atol=1e-6)
    assert jax.tree.map(np.shape, long.null(told, "dog")) == jax.tree.map(np.shape, told)
    with pytest.raises(ValueError, match="negative is of more chunks of tokens than the prompts"):
        long.null(encode(long, "a cat"), "dog " * 80)
    both = encode(long, "a cat", negative="dog " * 80)
    assert both["text"].shape == long.null(both, "dog " * 80)["text"].shape == (1, 154, 16)
    assert encode(replace(long, chunks=4), "a cat")["text"].shape == (1, 4 * 77, 16)


@pytest.mark.slow
def test_what_was_said_is_remembered(sd1, xl, monkeypatch):
    texts = [f"a fox {i}" for i in range(3)]
    remembering = remember(Joint((xl, Labels(2))))
    assert isinstance(remembering, Joint) and remembering.takes == ("prompt", "label")
    again = remembering.parts[0]
    told = encode(again, texts)
    assert_same(told, encode(xl, texts))
    twice = {key: np.concatenate([value[::-1]] * 2) for key, value in told.items()}
    monkeypatch.setattr(ClipText, "of_prompts", None)  # nothing is encoded any more
    assert_same(encode(again, texts[::-1] * 2), twice, 0)
    monkeypatch.undo()
    assert_same(again.null(told, texts), encode(xl, texts))
    assert not again.null(told)["text"].any()
    assert remember(Labels(2)) == Labels(2)


def test_what_was_said_of_a_prompt_does_not_depend_on_others(sd1):
    alone = encode(remember(sd1), "a fox")["text"][0]
    among = encode(remember(sd1), ["a cat", "snow", "a fox", "very red", "dog"])["text"][2]
    np.testing.assert_array_equal(alone, among)


def test_a_memo_forgets_what_was_not_used_for_longest():
    memo = Memo(limit=100)
    for key in "abc":
        memo.keep(key, {"text": np.zeros(10, np.float32)})
        memo.get("a")
    assert [key in memo for key in "abc"] == [True, False, True]
    assert (len(memo), memo.bytes) == (2, 80)
    memo.keep("d", {"text": np.zeros(100, np.float32)})  # which is too large, and is needed now
    assert [key in memo for key in "acd"] == [False, False, True]


def test_textual_inversion(xl):
    random = np.random.default_rng(0)
    vectors = [random.normal(size=(2, 8)), random.normal(size=(2, 8))]
    taught = xl.with_embedding("<toy>", vectors)
    size = len(xl.tokenizers[0])
    assert taught.embeddings == ("<toy>", "<toy>_1") and xl.embeddings == ()
    assert [net.vocab_size for net in taught.networks] == [size + 2] * 2
    for params, rows in zip(taught.params, vectors, strict=True):
        table = params["embeddings"]["token_embedding"]["embedding"]
        np.testing.assert_array_equal(table[size:], np.float32(rows))
    # The greatest token is no longer the end.
    assert_same(encode(taught, "a fox"), encode(xl, "a fox"))
    found, second = encode(taught, "a <toy>"), taught.encoders[1]
    told = replace(second, network=replace(second.network, eos_token_id=size - 1))
    ends = told.pooled(np.array([text_ids(taught, "a <toy>", 1)]))
    np.testing.assert_allclose(found["pooled"], ends, atol=1e-6)
    ids = np.array([text_ids(taught, "a <toy>")])
    assert ids[0, 2:4].tolist() == [size, size + 1]
    hidden = taught.encoders[0].hidden(ids, 1)
    np.testing.assert_allclose(found["text"][..., :8], hidden, atol=1e-6)
    for given, message in (
        (vectors[:1], "vectors for 1 text encoders, and there are 2"),
        ([vectors[0], vectors[1][:1]], "has not as many vectors for each encoder"),
        ([np.ones(3), np.ones(3)], r"is \[1, 3\], and the text encoder takes \[n, 8\]"),
    ):
        with pytest.raises(ValueError, match=message):
            xl.with_embedding("<other>", given)
    with pytest.raises(ValueError, match="'<toy>' is a token already"):
        taught.with_embedding("<toy>", vectors)


def test_tokenizers_are_its_files(xl, tmp_path):
    xl.write_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer", "tokenizer_2"]
    bare = replace(xl, tokenizers=())
    assert bare.read_files(tmp_path).tokenizers == xl.tokenizers
    assert bare.read_files(tmp_path / "nowhere") is bare
    with pytest.raises(ValueError, match="the checkpoint came without a tokenizer: load it with"):
        encode(bare, "a fox")
    with pytest.raises(ValueError, match="there are 1 tokenizers for 2 text encoders"):
        replace(xl, tokenizers=xl.tokenizers[:1])


def test_it_is_a_pytree_of_its_weights(xl):
    leaves, structure = jax.tree.flatten(xl)
    assert len(leaves) == sum(len(jax.tree.leaves(params)) for params in xl.params)
    assert jax.tree.unflatten(structure, leaves).tokenizers == xl.tokenizers
    other = replace(xl, tokenizers=tuple(replace(one) for one in xl.tokenizers))
    assert jax.tree.structure(other) == structure and hash(structure)
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), xl)
    assert repr(halved) == repr(xl) == "ClipText(2 and 2 layers)"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "the network draws what it is told in words: give a prompt"),
        (["a"], "prompt has 1 entries for 2 samples: give one for all, or as many"),
        (["a", 3], r"prompt is \['a', 3\]: it must be a text, or a list of texts"),
        (7, "prompt is 7: it must be a text, or a list of texts"),
        ("a \udcff", r"prompt is 'a \\udcff', of which not all is Unicode"),
    ],
)
def test_prompts_that_are_refused(sd1, prompt, message):
    with pytest.raises(ValueError, match=message):
        encode(sd1, prompt, 2)
    if prompt is not None:
        told = {"text": np.zeros((2, 77, 8))}
        with pytest.raises(ValueError, match=message.replace("prompt", "negative")):
            sd1.null(told, prompt)
