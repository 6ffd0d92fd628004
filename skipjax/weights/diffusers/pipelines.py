"""A model of the parts that a pipeline has: network, process, conditioner, codec, scheduler."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skipjax import conditioners
from skipjax.codecs import Latents
from skipjax.conditioners import (
    ClipText,
    Conditioner,
    EmbeddedGuidance,
    Given,
    MicroConditioning,
    Tokenizer,
)
from skipjax.plans.schedulers import LCM, Euler
from skipjax.pretrained import Pretrained
from skipjax.weights import registry
from skipjax.weights.components import CODEC, ENCODERS
from skipjax.weights.diffusers.scheduler import Read

TEXT = ("text", "pooled")  # what text encoders give
OF_SD, OF_XL = 7.5, 5.0  # scales of guidance
FEW = 4  # steps of turbo, lightning and what else was distilled to need no guidance
LATENTS = ("vae", "vqvae", "movq")  # without which samples are latents


@dataclass(frozen=True)
class Settings:
    """What a pipeline fixes that is in none of its networks' configs.

    Attributes:
        zeros_for_empty: Whether where nothing is to be kept away from, zeros stand for it instead
            of the embedding of "".
        aesthetic: Whether the network is told of a score in place of the size that is wanted.
        factor: Pixels along a side of a latent where no autoencoder is read.
    """

    zeros_for_empty: bool = False
    aesthetic: bool = False
    factor: int | None = None


def assemble(
    name: str,
    configs: Mapping[str, Any],
    tokenizers: Sequence[Tokenizer] = (),
    scheduler: Read | None = None,
    settings: Settings = Settings(),
) -> Pretrained:
    """The model that networks make together, without params.

    Args:
        name: What to call it.
        configs: Of the networks by component, as `weights.components` calls them.
        tokenizers: Of the text encoders, in their order; none where there are none at hand.
        scheduler: What the scheduler's config says; None where there is none.
        settings: What else the pipeline fixes.
    """
    others = {n: c for n, c in configs.items() if n not in (CODEC, *ENCODERS)}
    (network,) = others.values()
    model = registry.MODELS[type(network)](network, name)
    if scheduler is not None:
        process = model.process.replace(**scheduler.process)
        model = model.replace(process=process, scheduler=scheduler.scheduler)
    if settings.factor is not None:
        model = model.replace(codec=Latents(settings.factor))
    if CODEC in configs:
        codec = configs[CODEC]
        model = model.replace(codec=registry.MODELS[type(codec)](codec, CODEC))
    if CODEC in configs or settings.factor is not None:  # latents have no bounds
        model = model.replace(process=model.process.replace(bounds=None))
    encoders = tuple(configs[n] for n in ENCODERS if n in configs)
    model = model.replace(conditioner=_conditioner(model, encoders, tokenizers, settings))
    return _as_pipelines_draw(model) if encoders else model


def _conditioner(
    model: Pretrained,
    encoders: tuple[Any, ...],
    tokenizers: Sequence[Tokenizer],
    settings: Settings,
) -> Conditioner | None:
    """What tells the network of what it takes: arrays that are given, where nothing else does."""
    found: list[Conditioner] = []
    ours: tuple[str, ...] = ()
    takes = getattr(model.network, "takes", ())
    if encoders and "text" in takes:
        text = ClipText(
            None, encoders, tuple(tokenizers), zeros_for_empty=settings.zeros_for_empty
        )
        found, ours = [text], (*ours, *TEXT)
    if "time_ids" in takes:
        h, w, _ = model.shape
        factor = getattr(model.codec, "factor", 8)
        found.append(MicroConditioning((h * factor, w * factor), settings.aesthetic))
        ours = (*ours, "time_ids")
    rest = [
        part
        for part in conditioners.parts(model.conditioner)
        if not (isinstance(part, Given) and part.key in ours)
    ]
    return conditioners.join([*found, *rest])


def _as_pipelines_draw(model: Pretrained) -> Pretrained:
    """The model with the scale of guidance that diffusers' pipeline of such parts has by default;
    and of networks that were distilled, the steps that they need.
    """
    told = conditioners.parts(model.conditioner)
    if any(isinstance(part, EmbeddedGuidance) for part in told):
        return model
    sampler = model.scheduler
    if sampler is not None and _is_distilled(sampler.method, model.process.parameterization):
        warnings.warn(
            f"{model.name} is taken for one that was distilled, as its sampler is theirs: {FEW} "
            "steps without guidance, where nothing else is asked for",
            stacklevel=5,
        )
        return model.replace(guidance=1.0, scheduler=replace(sampler, steps=FEW))
    sizes = any(isinstance(part, MicroConditioning) for part in told)
    return model.replace(guidance=OF_XL if sizes else OF_SD)


def _is_distilled(method: Any, parameterization: str) -> bool:
    """Whether a sampler is that of turbo, lightning or LCM; trailing times alone may be there for
    zero terminal SNR, too, of which no eps is learned.
    """
    trailing = isinstance(method, Euler) and method.spacing == "trailing"
    return isinstance(method, LCM) or trailing and parameterization == "eps"


def say_missing(path: Path, missing: Sequence[str]) -> None:
    """Warns of the components that are not there, and of what follows."""
    codecs = [name for name in missing if name in LATENTS]
    for names in (codecs, [name for name in missing if name not in codecs]):
        if names:
            be = "is" if len(names) == 1 else "are"
            say(f"{path}: {', '.join(names)} {be} missing", names[0])


def say(what: str, component: str) -> None:
    """Warns of a component that is not read, and of what follows."""
    instead = "samples are latents" if component in LATENTS else "text is given as arrays, text="
    warnings.warn(f"{what}: {instead}", stacklevel=4)
