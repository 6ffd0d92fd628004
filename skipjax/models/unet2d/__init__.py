"""UNet2DModel of diffusers."""

from skipjax.models.unet2d.unet import UNet2D as UNet2D
from skipjax.models.unet2d.unet import UNet2DConfig as UNet2DConfig
