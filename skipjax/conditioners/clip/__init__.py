"""Prompts, by the text encoders of CLIP."""

from skipjax.conditioners.clip.clip_text import ClipText as ClipText
from skipjax.conditioners.clip.remembered import Remembered as Remembered
from skipjax.conditioners.clip.remembered import remember as remember
from skipjax.conditioners.clip.text_encoder import TextEncoder as TextEncoder
from skipjax.conditioners.clip.tokenizer import Tokenizer as Tokenizer
