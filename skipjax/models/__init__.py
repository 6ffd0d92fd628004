"""Flax networks and their configs."""

from skipjax.models.config import UNetConfig as UNetConfig
from skipjax.models.unet import UNet as UNet
from skipjax.models.unet import example as example
from skipjax.models.unet import param_shapes as param_shapes
