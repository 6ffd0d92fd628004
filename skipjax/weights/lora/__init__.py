"""LoRA (Hu et al. 2021, arXiv:2106.09685): small changes to weights, merged on loading.

W' = W + scale alpha / rank up down, in float32, before W is cast to what it is kept in. Files are
those of kohya's scripts, of diffusers and of peft.
"""

from skipjax.weights.lora.files import Adapter as Adapter
from skipjax.weights.lora.files import Loras as Loras
from skipjax.weights.lora.files import parse as parse
from skipjax.weights.lora.files import read as read
from skipjax.weights.lora.merging import merge as merge
