"""Transformers of latents: DiT and SiT."""

from skipjax.models.dit.blocks import sinusoids as sinusoids
from skipjax.models.dit.transformer import DIFFUSERS as DIFFUSERS
from skipjax.models.dit.transformer import SIZES as SIZES
from skipjax.models.dit.transformer import DiT as DiT
from skipjax.models.dit.transformer import DiTConfig as DiTConfig
