"""Prompts to what text-to-image networks are told of them, by one text encoder of CLIP or two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipjax.checks import whole
from skipjax.conditioners.clip.encoding import say
from skipjax.conditioners.clip.prompts import Chunk, as_prompts, chunks_of, empty
from skipjax.conditioners.clip.text_encoder import TextEncoder
from skipjax.conditioners.clip.textual_inversion import with_vectors
from skipjax.conditioners.clip.tokenizer import Tokenizer
from skipjax.conditioners.conditioner import Condition, Words
from skipjax.models import CLIPTextConfig

OfPrompts = Callable[..., Condition]  # `ClipText.of_prompts`, or what does the same
STATIC = (
    "networks",
    "tokenizers",
    "clip_skip",
    "weighted",
    "long",
    "zeros_for_empty",
    "chunks",
)


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=STATIC)
@dataclass(frozen=True, repr=False)
class ClipText:
    """{"text": float32 [B, L, D]}, and with a last encoder that projects "pooled" [B, P] too.

    What the encoders say of a token is laid side by side. One alone that does not project is
    Stable Diffusion 1's or 2's: its last layer is read, after the final norm. Otherwise it is
    Stable Diffusion XL's, or its refiner's: all layers but the last are read, without norm.

    Each distinct prompt is encoded once, and so many at a time that neither new prompts nor
    another number of them compile a program anew.

    Args:
        params: Weights of each encoder.
        networks: Their architectures.
        tokenizers: Of each encoder; empty where there are none at hand, and nothing can be
            encoded.
        clip_skip: Further layers, counted from the last that is read, which prompts leave out;
            negative ones do not, as in diffusers. Default: 0.
        weighted: Whether brackets weight, as `prompts` explains. The weights multiply what an
            encoder says of a chunk's tokens, whose mean is then restored.
        long: Whether a prompt may be of several chunks, of `length` tokens each, so that L is a
            multiple of it.
        zeros_for_empty: Whether zeros stand for no negative prompt, in place of what the encoders
            say of "".
        chunks: Of how many chunks prompts are at least, where they are long; those of a job are
            all of as many.

    Raises:
        ValueError: If there are not as many tokenizers as encoders, or clip_skip is out of range.
    """

    params: Any = None
    networks: tuple[CLIPTextConfig, ...] = ()
    tokenizers: tuple[Tokenizer, ...] = ()
    clip_skip: int | None = None
    weighted: bool = False
    long: bool = False
    zeros_for_empty: bool = False
    chunks: int = 1

    takes = ("prompt",)
    in_files = ("tokenizers",)  # fields that `write_files` writes

    def __post_init__(self):
        for name in ("networks", "tokenizers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.tokenizers and len(self.tokenizers) != len(self.networks):
            raise ValueError(
                f"there are {len(self.tokenizers)} tokenizers for {len(self.networks)} text "
                "encoders: there must be as many"
            )
        if self.clip_skip is not None:
            layers = min((net.num_hidden_layers for net in self.networks), default=0)
            whole("clip_skip", self.clip_skip, 0, layers - self._of_xl)
        whole("chunks", self.chunks, 1)

    def __repr__(self) -> str:
        layers = " and ".join(str(net.num_hidden_layers) for net in self.networks)
        lost = "" if self.tokenizers else ", no tokenizer"
        return f"ClipText({layers} layers{lost})"

    @property
    def gives(self) -> tuple[str, ...]:
        """Keys of the condition."""
        return ("text", "pooled") if self._of_xl else ("text",)

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders, each by itself."""
        return tuple(map(TextEncoder, self.params, self.networks))

    @property
    def length(self) -> int:
        """Tokens of a chunk, beginning and end included."""
        lengths = [net.max_position_embeddings for net in self.networks]
        return min(lengths + [t.length for t in self.tokenizers if t.length is not None])

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Words that were added by textual inversion."""
        return self.tokenizers[0].words if self.tokenizers else ()

    def init(self, key: jax.Array) -> tuple[Any, ...]:
        """Params drawn at random."""
        keys = jax.random.split(key, len(self.networks))
        return tuple(net.init(one) for net, one in zip(self.networks, keys, strict=True))

    def encode(self, words: Words, key: jax.Array, ids: np.ndarray) -> Condition:
        """What the encoders say of the prompts of samples `ids`.

        Args:
            words: `prompt`, one for all or one for each. Where prompts are long, `negative` is
                looked at too: both are of as many chunks.
            key: Not needed.
            ids: Ids of the samples, [B].

        Raises:
            ValueError: If there is no prompt, or no tokenizer; for prompts that are no texts, or
                not as many as samples.
        """
        return self.of_prompts(*self.asked(words, len(ids)))

    def null(self, condition: Condition, negative: Any = None) -> Condition | None:
        """What the encoders say of negative prompts; without any, of "", or zeros.

        Args:
            condition: What `encode` gave, which the result has the shapes of.
            negative: One for all, or one for each.

        Raises:
            ValueError: For negative prompts that are no texts, not as many as samples, or of more
                chunks than the prompts.
        """
        return null_by(self, self.of_prompts, condition, negative)

    def asked(self, words: Words, num: int) -> tuple[list[str], int, int | None]:
        """The prompts of `num` samples, of how many chunks they are to be, and `clip_skip`: what
        `of_prompts` takes. Arguments and errors are those of `encode`.
        """
        prompts = as_prompts("prompt", words.get("prompt"), num)
        negative = words.get("negative")
        both = [*prompts, *([] if negative is None else as_prompts("negative", negative, num))]
        return prompts, self.chunks_for(both), self.clip_skip

    def chunks_for(self, prompts: Sequence[str]) -> int:
        """Of how many chunks prompts are: as many as the longest of them needs, and at least
        `chunks`.
        """
        if not self.long:
            return 1
        split = (self._split(which, one) for one in {*prompts} for which in self._tokenizers())
        return max(self.chunks, *map(len, split))

    def of_prompts(
        self,
        prompts: Sequence[str],
        chunks: int = 1,
        clip_skip: int | None = None,
        full: bool = False,
    ) -> Condition:
        """What the encoders say of prompts, leaves [len(prompts), ...].

        Args:
            prompts: One or more.
            chunks: Of how many chunks each is made.
            clip_skip: As in `ClipText`.
            full: As in `encoding.say`.
        """
        distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        which = np.array([distinct[prompt] for prompt in prompts])
        skip, texts, pooled = (clip_skip or 0) + self._of_xl, [], None
        for encoder, tokenizer in zip(self.encoders, self._tokenizers(), strict=True):
            split = [self._split(tokenizer, prompt) for prompt in distinct]
            rest = empty(tokenizer, self.length)
            split = [(*some, *[rest] * (chunks - len(some))) for some in split]
            text, pooled = say(encoder, split, skip, not self._of_xl, self.weighted, full)
            texts.append(text)
        found = {"text": jnp.concatenate(texts, axis=-1), "pooled": pooled}
        return {key: jnp.take(found[key], which, axis=0) for key in self.gives}

    def with_embedding(self, token: str, vectors: Sequence[Any]) -> "ClipText":
        """The same that knows a further word: textual inversion (Gal et al. 2022,
        arXiv:2208.01618).

        Args:
            token: What stands for it in prompts, such as "<cat-toy>"; found in any case.
            vectors: For each encoder [n, D] or [D]; n of them are as many tokens in a row.

        Raises:
            ValueError: For a token that there is already, vectors of another width, not as many
                as the other encoder's, or not for each encoder.
        """
        if len(vectors) != len(self.networks):
            raise ValueError(
                f"the embedding {token!r} has vectors for {len(vectors)} text encoders, and there "
                f"are {len(self.networks)}"
            )
        if len({len(np.atleast_2d(some)) for some in vectors}) > 1:
            raise ValueError(f"the embedding {token!r} has not as many vectors for each encoder")
        parts = zip(self.encoders, self._tokenizers(), vectors, strict=True)
        parts = [with_vectors(*one, token, some) for *one, some in parts]
        encoders, tokenizers = zip(*parts, strict=True)
        return replace(
            self,
            params=tuple(encoder.params for encoder in encoders),
            networks=tuple(encoder.network for encoder in encoders),
            tokenizers=tokenizers,
        )

    def write_files(self, folder: str | Path) -> None:
        """Writes what it knows beside params and fields of a card: its tokenizers."""
        for name, tokenizer in zip(_folders(self.networks), self.tokenizers, strict=False):
            tokenizer.write(Path(folder) / name)

    def read_files(self, folder: str | Path) -> "ClipText":
        """The same with the tokenizers that `write_files` wrote, if it wrote any.

        Raises:
            ValueError: If a file is missing or cannot be read; says which.
        """
        folders = [Path(folder) / name for name in _folders(self.networks)]
        if not any(map(Path.is_dir, folders)):
            return self
        return replace(self, tokenizers=tuple(map(Tokenizer.read, folders)))

    @property
    def _of_xl(self) -> bool:
        """Whether they are XL's, of which the last layer is not read and the pooled vector is."""
        return bool(self.networks) and self.networks[-1].with_projection

    def _tokenizers(self) -> tuple[Tokenizer, ...]:
        if not self.tokenizers:
            raise ValueError(
                "a prompt is given, and the checkpoint came without a tokenizer: load it with "
                "tokenizer=, the folder of one (vocab.json and merges.txt, or tokenizer.json)"
            )
        return self.tokenizers

    def _split(self, tokenizer: Tokenizer, prompt: str) -> tuple[Chunk, ...]:
        return chunks_of(tokenizer, prompt, self.length, self.weighted, self.long)


def null_by(
    conditioner: ClipText, of_prompts: OfPrompts, condition: Condition, negative: Any
) -> Condition | None:
    """What `ClipText.null` gives, with another way to encode."""
    if "text" not in condition:
        return None
    num, tokens = condition["text"].shape[:2]
    if negative is None and conditioner.zeros_for_empty:
        return condition | {key: jnp.zeros_like(condition[key]) for key in conditioner.gives}
    prompts = as_prompts("negative", "" if negative is None else negative, num)
    chunks = tokens // conditioner.length
    if replace(conditioner, chunks=1).chunks_for(prompts) > chunks:
        raise ValueError(
            f"negative is of more chunks of tokens than the prompts, {chunks}: give both to "
            "encode, or shorten it"
        )
    return condition | of_prompts(prompts, chunks)


def _folders(networks: Sequence[CLIPTextConfig]) -> list[str]:
    """Of tokenizers, by diffusers' names."""
    return ["tokenizer" if i == 0 else f"tokenizer_{i + 1}" for i in range(len(networks))]
