"""AutoencoderKL of diffusers."""

from skipjax.models.autoencoder_kl.autoencoder import AutoencoderKL as AutoencoderKL
from skipjax.models.autoencoder_kl.autoencoder import AutoencoderKLConfig as AutoencoderKLConfig
