"""Between samples as people have them and the arrays that are diffused."""

from skipjax.codecs.autoencoder import AutoencoderKL as AutoencoderKL
from skipjax.codecs.autoencoder import AutoencoderTiny as AutoencoderTiny
from skipjax.codecs.codec import Codec as Codec
from skipjax.codecs.identity import Identity as Identity
from skipjax.codecs.latents import Latents as Latents
