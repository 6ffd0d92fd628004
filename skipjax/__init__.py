"""Sampling from pretrained diffusion models in JAX."""

from importlib.metadata import version

from skipjax import adaptive as adaptive
from skipjax import codecs as codecs
from skipjax import conditioners as conditioners
from skipjax import denoisers as denoisers
from skipjax import grids as grids
from skipjax import guidance as guidance
from skipjax import jobs as jobs
from skipjax import models as models
from skipjax import plans as plans
from skipjax import sampling as sampling
from skipjax import schedules as schedules
from skipjax import sharding as sharding
from skipjax import tuning as tuning
from skipjax import weights as weights
from skipjax.api import load as load
from skipjax.api import sample as sample
from skipjax.codecs.images import grid as grid
from skipjax.codecs.images import to_uint8 as to_uint8
from skipjax.config import SampleConfig as SampleConfig
from skipjax.generation import decode as decode
from skipjax.generation import denoiser as denoiser
from skipjax.generation import generate as generate
from skipjax.pretrained import Classifier as Classifier
from skipjax.pretrained import Pretrained as Pretrained
from skipjax.process import Process as Process
from skipjax.relay import relay as relay
from skipjax.sampling import integrate as integrate
from skipjax.tuning import tune as tune

__version__ = version("skipjax")
