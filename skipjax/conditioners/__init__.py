"""From words, classes and pictures to what conditions a network: a dict of arrays [B, ...]."""

from skipjax.conditioners.clip import ClipText as ClipText
from skipjax.conditioners.clip import TextEncoder as TextEncoder
from skipjax.conditioners.clip import Tokenizer as Tokenizer
from skipjax.conditioners.clip import remember as remember
from skipjax.conditioners.conditioner import Condition as Condition
from skipjax.conditioners.conditioner import Conditioner as Conditioner
from skipjax.conditioners.embedded_guidance import EmbeddedGuidance as EmbeddedGuidance
from skipjax.conditioners.given import Given as Given
from skipjax.conditioners.joint import Joint as Joint
from skipjax.conditioners.joint import join as join
from skipjax.conditioners.joint import part as part
from skipjax.conditioners.joint import parts as parts
from skipjax.conditioners.labels import Labels as Labels
from skipjax.conditioners.micro_conditioning import MicroConditioning as MicroConditioning
from skipjax.conditioners.pictures import Pictures as Pictures
