"""Any checkpoint by what people call it: a path, a bundled name, a name of the hub."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.checks import as_dtype
from skipjax.models import ClassifierConfig
from skipjax.pretrained import Classifier, Network, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import (
    cards,
    checksums,
    compvis,
    diffusers,
    folders,
    lora,
    parts,
    released,
    textual_inversion,
    vocabularies,
)
from skipjax.weights.cards import Card
from skipjax.weights.components import Component, Found, fill, networks, parameters
from skipjax.weights.diffusers import hub
from skipjax.weights.lora import Loras


@overload
def load(
    checkpoint: str | Path,
    *,
    config: ClassifierConfig | Classifier,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
) -> Classifier: ...


@overload
def load(
    checkpoint: str | Path,
    *,
    config: Network | Pretrained,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
) -> Pretrained: ...


@overload
def load(
    checkpoint: str | Path,
    *,
    card: str | None = None,
    config: None = None,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
    revision: str | None = None,
    variant: str | None = None,
    loras: Loras | None = None,
    embeddings: Mapping[str, str | Path] | None = None,
    tokenizer: str | Path | None = None,
    prediction: Literal["eps", "v"] | None = None,
) -> Any: ...


def load(
    checkpoint: str | Path,
    *,
    card: str | None = None,
    config: Network | ClassifierConfig | Pretrained | Classifier | None = None,
    key: str | None = None,
    dtype: DTypeLike = jnp.float32,
    sharding: Placement | None = None,
    revision: str | None = None,
    variant: str | None = None,
    loras: Loras | None = None,
    embeddings: Mapping[str, str | Path] | None = None,
    tokenizer: str | Path | None = None,
    prediction: Literal["eps", "v"] | None = None,
) -> Any:
    """Loads a checkpoint, after checking its files against the sha256 that is known of them.

    Args:
        checkpoint: A checkpoint's folder; a folder that diffusers wrote, of a pipeline or of one
            of its networks alone; a single file of Stable Diffusion 1, 2 or XL, or of one of its
            networks, .safetensors or .ckpt; a released file of weights, .pt or .safetensors
            ("256x256_diffusion.pt"), or .pkl of EDM's, which says itself what it holds; a bundled
            name ("emoji32"); or a name of the Hugging Face hub ("google/ddpm-cifar10-32"), of
            which only the files that are needed are fetched where its cache does not hold them.
        card: Name or .json of the card that describes the file; default: found by the file's name.
        config: What the file holds instead of a card: a `Pretrained` or `Classifier` whose params
            are None; or just the architecture, and then it is taken to be trained as those of its
            family are (ADM's: linear schedule, T = 1000, eps).
        key: Of the weights among other things in the file, such as "ema" or "model.ema"; default:
            found where only one can be meant.
        dtype: To keep the weights in: float32, bfloat16 or float16.
        sharding: Where to put the weights: a `jax.sharding.Sharding` for all, a mesh of
            `skipjax.sharding.mesh` to split them over, a function from a shape to a sharding, or
            a pytree of shardings. Each array goes straight there. Default: the first device.
        revision: Branch, tag or commit of a name of the hub. Default: main.
        variant: Of weights that diffusers wrote, such as "fp16"; where there is none such, the
            plain ones are taken, which is said. Default: the plain ones.
        loras: Files of LoRAs to merge into the weights, with their scales, {path: 0.8}; or a list
            of files whose scale is 1. Of kohya's scripts, diffusers or peft.
        embeddings: Files of textual inversion, of words that prompts may then have:
            {"<cat-toy>": path}.
        tokenizer: Folder with the vocabulary of prompts, vocab.json and merges.txt or
            tokenizer.json, or of a pipeline that has one: for single files, which have none.
            Default: the checkpoint's own, or that of openai/clip-vit-large-patch14 in the hub's
            cache.
        prediction: What the network of a single file predicts, "eps" or "v". Default: what the
            file says, or seems to, which is then said.

    Returns:
        A `Pretrained`; for a classifier of noisy pictures a `Classifier`; for an autoencoder alone
        a codec, `skipjax.codecs.AutoencoderKL` or `AutoencoderTiny`; for a text encoder alone a
        `skipjax.conditioners.TextEncoder`. All are pytrees of the weights that carry what is known
        of their network.

    Raises:
        ValueError: If there is no such checkpoint, a file of it is missing or damaged, the weights
            do not fit the architecture, or one is not finite; or the hub does not give it; or a
            LoRA or an embedding is made for another network.
    """
    kept = as_dtype(dtype, ("float32", "bfloat16", "float16"))
    adapters = lora.read(loras)
    if not Path(checkpoint).is_file() and (card, config, key) != (None, None, None):
        raise ValueError(
            f"{checkpoint} is not a file: card, config and key say what a .pt or .safetensors "
            "holds"
        )
    said = card is not None or config is not None
    found = find(checkpoint, revision, variant, kept, key, prediction, said=said)
    if isinstance(found, Found):
        merged = replace(found, components=lora.merge(found.components, adapters))
        if isinstance(found.model, Pretrained):
            model = vocabularies.complete(found.path, found.model, tokenizer)
            merged = replace(merged, model=model)
        model = merged.load(kept, sharding)
    else:
        if tokenizer is not None:
            raise ValueError(f"tokenizer is given, and {checkpoint} has its own: drop it")
        read = jnp.float32 if adapters else kept
        if found.is_file():
            model = released.load(found, card, config, read, sharding, key)
        else:
            model = folders.load(found, read, sharding)
        if adapters:
            components = {
                name: Component(network, partial(diffusers.tensors, network, params), found)
                for name, (network, params) in networks(model).items()
            }
            merged = lora.merge(components, adapters)
            model = fill(model, {name: c.params(kept, sharding) for name, c in merged.items()})
    return textual_inversion.extend(model, embeddings) if embeddings else model


def find(
    checkpoint: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    dtype: DTypeLike = jnp.float32,
    key: str | None = None,
    prediction: str | None = None,
    *,
    said: bool = False,
) -> Path | Found:
    """What a checkpoint's name stands for: a folder of diffusers' or a single file of the same
    networks; another file; or a folder with its card. In this order: what there is at that path,
    a bundled name, what the hub's cache holds, and what is fetched from the hub.

    Args:
        checkpoint: The name.
        revision: Of a name of the hub.
        variant: Of diffusers' weights.
        dtype: That weights will be kept in.
        key: Of the state dict in a file.
        prediction: Of a single file's network, "eps" or "v".
        said: Whether a card or config says what a file holds, whatever its content.

    Raises:
        ValueError: If it stands for nothing, with what was looked for.
    """
    path, name = Path(checkpoint), of_hub(checkpoint)
    if revision is not None and name is None:
        raise ValueError(f"revision is given, and {checkpoint} is no name of the hub: drop it")
    single = None
    if path.is_file() and not said:
        single = compvis.find(path, key, prediction)
    if single is None and prediction is not None:
        raise ValueError(
            "prediction says what a single file of Stable Diffusion does not, and "
            f"{checkpoint} is none: drop it"
        )
    if single is not None:
        return single
    if name is not None:
        return hub.find(name, revision, variant, dtype)
    if is_diffusers(path):
        return diffusers.find(path, variant=variant)
    if variant is not None:
        raise ValueError(f"variant is given, and {checkpoint} is no folder of diffusers': drop it")
    return path if path.is_file() else cards.find(checkpoint)


def describe(checkpoint: str | Path, revision: str | None = None) -> Card:
    """All that is known of a checkpoint, of which no weight is read.

    Raises:
        ValueError: If nothing is.
    """
    name = of_hub(checkpoint)
    if name is not None:
        known = cards.of_hub(name)
        if known is not None and hub.cached(name, revision) is None:
            return known
        return (known or {"hub": name}) | card_of(hub.describe(name, revision))
    if is_diffusers(path := Path(checkpoint)):
        return card_of(diffusers.describe(path))
    if path.is_file() and (single := compvis.find(path)) is not None:
        return (cards.of_file(path) or {}) | card_of(single.model)
    return cards.describe(checkpoint)


def sha256(checkpoint: str, revision: str | None = None, variant: str | None = None) -> str:
    """The checksum of a checkpoint's weights, whatever it is."""
    found = find(checkpoint, revision, variant)
    return found.sha256() if isinstance(found, Found) else checksums.of_weights(found)


def of_hub(checkpoint: str | Path) -> str | None:
    """The name of the hub that a text is; None for a path, or a file that a card knows."""
    path, name = Path(checkpoint), str(checkpoint)
    if path.exists() or not hub.is_name(name):
        return None
    known = cards.of_file(path)
    return name if known is None or "hub" in known else None


def is_diffusers(path: Path) -> bool:
    return not (path / "card.json").is_file() and diffusers.is_folder(path)


def card_of(model: Any) -> Card:
    return parts.describe(model) | {"parameters": sum(parameters(model).values())}
