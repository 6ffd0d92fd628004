"""How samples are drawn, as it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skipjax.guidance import Guidance
from skipjax.plans import Plan
from skipjax.pretrained import Classifier, Pretrained

PlanLike = Plan | str | None
ClassifierLike = Classifier | str | None
GuideLike = Pretrained | str | None
SizeLike = tuple[int, int] | None
ScaleLike = float | Guidance | Sequence[float | Guidance] | None


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How samples are drawn: what `skipjax.sample` is asked, `skipjax sample` and `skipjax
    generate` take as options, and a job is identified by. None: not given.
    """

    skip: int | None = None
    """Stride over the T training times, 1 .. T: of 1000, 20 leaves 50 network calls. Default:
    the checkpoint's own sampler where it has one, one call of a consistency model, else 20."""
    cutoff: int | None = None
    """Steps that start at t >= cutoff are skipped-step, those below DDIM; 0 .. T. Default: 0."""
    steps: str | int | None = None
    """Of the checkpoint's own sampler, where it has one: how many steps. Else one of ADM's strings
    instead of skip and cutoff, for ADM's own sampler: "250", "90,60,60,20,20", "" for all T times,
    "ddim25" for DDIM. With a named plan how many times its grid has, or one of these strings."""
    nfe: int | None = None
    """Network calls, instead of skip and steps: of the plan that is named; or of one that was
    tuned for the checkpoint and comes with it, where there is one, and of dpmpp_2m otherwise; of
    a consistency model, of its own."""
    eta: float | None = None
    """Of DDIM, noise in 0 .. 1: 0 is DDIM, 1 skipped-step. With plan ddim, or none."""
    variance: Literal["small", "large", "learned_range", "learned"] | None = None
    """Of the noise in skipped-step and ADM's sampling. Default: what the network was made for."""
    plan: PlanLike = None
    """Another sampler: a name that `skipjax plans` lists, a .json that Plan.to_json wrote or what
    is in it; in Python also a Plan."""
    grid: str | None = None
    """Times of a named plan: uniform, quadratic, uniform_log_snr, karras, leading, trailing or
    linspace. Default: trailing."""
    classifier: ClassifierLike = None
    """What guides: the checkpoint of a classifier; in Python what `load` gives for one."""
    guide: GuideLike = None
    """A second network that guides by doing the same worse: its checkpoint; in Python what `load`
    gives for one. With guidance, the scale."""
    guidance: ScaleLike = None
    """Scale of guidance: by the classifier, default: 1; by the guide; or without either, where the
    network knows of no condition or is told the scale, default: the checkpoint's own, 7.5 of
    Stable Diffusion 1 and 2, where it has one, else none. In Python also an `Autoguidance`, or a
    list of such and a scale."""
    guidance_interval: tuple[float, float] | None = None
    """Least and largest time at which to guide. Default: all."""
    guidance_rescale: float | None = None
    """Of guidance without a classifier, part of the way back to the spread of the conditional
    output, 0 .. 1. Default: 0."""
    clip: bool | None = None
    """Whether predictions of x_0 are kept in the bounds of the data. Default: where it has any, or
    as the checkpoint's own sampler does."""
    threshold: float | None = None
    """Quantile of dynamic thresholding, such as 0.995, instead of clipping."""
    clip_skip: int | None = None
    """Layers of the text encoder, from its end, that the prompt is not passed through. Default: as
    the network was trained."""
    prompt_weights: bool = False
    """Whether (words) and [words] of a prompt count for more and less, (words:1.3) for so much, as
    A1111 has it."""
    long_prompts: bool = False
    """Whether a prompt is read to its end, in chunks of 75 tokens; or else cut there."""
    size: SizeLike = None
    """Height and width of a sample, in pixels. Default: what the network was made for."""
    tiles: int | None = None
    """Side of the tiles, in latent pixels, that pictures are decoded in where memory is short;
    they are then not exact. Default: whole pictures."""
    vae_dtype: Literal["float32", "bfloat16"] | None = None
    """What the autoencoder computes in. Default: float32."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in."""
    remat: bool = False
    """Whether a classifier's layers are computed again for its gradient, to save memory."""
