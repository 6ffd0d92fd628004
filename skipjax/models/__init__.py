"""Flax networks and their configs."""

from skipjax.models.config import UNetConfig as UNetConfig
from skipjax.models.unet import UNet as UNet
