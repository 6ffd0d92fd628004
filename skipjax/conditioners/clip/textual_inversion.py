"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): words whose vectors were learned."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from skipjax.conditioners.clip.text_encoder import TextEncoder
from skipjax.conditioners.clip.tokenizer import Tokenizer


def with_vectors(
    encoder: TextEncoder, tokenizer: Tokenizer, token: str, vectors: Any
) -> tuple[TextEncoder, Tokenizer]:
    """An encoder and its tokenizer that know a further token.

    Args:
        encoder: As it was.
        tokenizer: Of the encoder.
        token: What stands for the vectors in prompts.
        vectors: [n, D], or [D] of one.

    Raises:
        ValueError: If the token is there already, or the vectors are of another width.
    """
    net, vectors = encoder.network, np.atleast_2d(np.asarray(vectors))
    if vectors.ndim != 2 or vectors.shape[1] != net.hidden_size:
        raise ValueError(
            f"the embedding {token!r} is {list(vectors.shape)}, and the text encoder takes "
            f"[n, {net.hidden_size}]: it was made for another"
        )
    end, tokenizer = tokenizer.frame[1], tokenizer.with_token(token, len(vectors))
    first, last = len(tokenizer) - len(vectors), len(tokenizer)
    table = jnp.asarray(encoder.params["embeddings"]["token_embedding"]["embedding"])
    table = jnp.pad(table, ((0, max(last - len(table), 0)), (0, 0)))
    table = table.at[first:last].set(jnp.asarray(vectors, table.dtype))
    embeddings = encoder.params["embeddings"] | {"token_embedding": {"embedding": table}}
    # 2 stands for the greatest token, which the end is no longer.
    eos = end if net.eos_token_id == 2 else net.eos_token_id
    net = replace(net, vocab_size=len(table), eos_token_id=eos)
    return TextEncoder(encoder.params | {"embeddings": embeddings}, net), tokenizer
