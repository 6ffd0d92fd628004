"""UNet2DConditionModel of diffusers: the U-Nets of Stable Diffusion."""

from skipjax.models.unet2d_condition.unet import UNet2DCondition as UNet2DCondition
from skipjax.models.unet2d_condition.unet import UNet2DConditionConfig as UNet2DConditionConfig
