"""Text encoders against transformers' own, with random weights."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from clip_oracle import ours_of, their_encoder, torch
from text_models import BIG_G, CLIP_H, CLIP_L, TOKENS

END = TOKENS - 1
KINDS = {"clip_l": CLIP_L, "clip_h": CLIP_H, "big_g": BIG_G}
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def error(ours, theirs):
    """Largest difference, over the largest of theirs."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def tokens(length=77):
    """Texts of several lengths, some of which are padded with what ends them."""
    ids = np.random.default_rng(0).integers(0, TOKENS - 2, (3, length))
    ids[:, 0] = TOKENS - 2
    for row, end in zip(ids, (1, length // 2, length - 1), strict=True):
        row[end:] = END
    ids[1, length // 2 + 1 :] = 0
    return ids


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_transformers(name):
    network = their_encoder(KINDS[name])
    encoder = ours_of(network)
    for ids, skip in ((tokens(), 0), (tokens(9), 1)):
        with torch.inference_mode():
            theirs = network(torch.tensor(ids), output_hidden_states=True)
        states = encoder.states(ids, skip)
        assert error(states.hidden, theirs.hidden_states[-1 - skip]) <= 5e-5
        assert error(states.pooled, theirs[0 if name == "big_g" else 1]) <= 5e-5
        if not skip:
            assert error(states.normed, theirs.last_hidden_state) <= 5e-5
            np.testing.assert_array_equal(encoder.apply(ids), states.normed)


@pytest.mark.parametrize("name", KINDS)
def test_names_with_a_prefix_and_without(name):
    network = their_encoder(KINDS[name])
    jax.tree.map(
        np.testing.assert_array_equal,
        ours_of(network, "").params,
        ours_of(network, "text_model.").params,
    )


def test_a_token_that_was_added_does_not_end_a_text():
    network = their_encoder(BIG_G | {"vocab_size": TOKENS + 1, "eos_token_id": END})
    ids = tokens()
    ids[1, 5] = TOKENS
    with torch.inference_mode():
        theirs = network(torch.tensor(ids)).text_embeds
    encoder = ours_of(network)
    assert error(encoder.pooled(ids), theirs) <= 5e-5
    stolen = replace(encoder, network=replace(encoder.network, eos_token_id=2)).pooled(ids)
    assert np.abs(np.asarray(stolen)[1] - theirs[1].numpy()).max() > 0.1
