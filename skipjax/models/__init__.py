"""Flax networks and their configs."""

from skipjax.models.autoencoder_kl import AutoencoderKLConfig as AutoencoderKLConfig
from skipjax.models.autoencoder_tiny import AutoencoderTinyConfig as AutoencoderTinyConfig
from skipjax.models.classifier import Classifier as Classifier
from skipjax.models.classifier import ClassifierConfig as ClassifierConfig
from skipjax.models.clip_text import CLIPTextConfig as CLIPTextConfig
from skipjax.models.clip_text import TextStates as TextStates
from skipjax.models.dit import DiT as DiT
from skipjax.models.dit import DiTConfig as DiTConfig
from skipjax.models.edm import DhariwalUNetConfig as DhariwalUNetConfig
from skipjax.models.edm import EdmConfig as EdmConfig
from skipjax.models.edm import MagnitudeUNetConfig as MagnitudeUNetConfig
from skipjax.models.edm import SongUNetConfig as SongUNetConfig
from skipjax.models.networks import example as example
from skipjax.models.networks import network as network
from skipjax.models.networks import param_shapes as param_shapes
from skipjax.models.unet import UNet as UNet
from skipjax.models.unet import UNetConfig as UNetConfig
from skipjax.models.unet2d import UNet2D as UNet2D
from skipjax.models.unet2d import UNet2DConfig as UNet2DConfig
from skipjax.models.unet2d_condition import UNet2DCondition as UNet2DCondition
from skipjax.models.unet2d_condition import UNet2DConditionConfig as UNet2DConditionConfig
