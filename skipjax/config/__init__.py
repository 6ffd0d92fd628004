"""What is asked of sampling, and the one place where it is checked against a model."""

from skipjax.checks import as_dtype as as_dtype
from skipjax.config.arguments import as_ids as as_ids
from skipjax.config.arguments import as_key as as_key
from skipjax.config.arguments import as_model as as_model
from skipjax.config.load_config import LoadConfig as LoadConfig
from skipjax.config.plans import read_plan as read_plan
from skipjax.config.sample_config import PlanLike as PlanLike
from skipjax.config.sample_config import SampleConfig as SampleConfig
from skipjax.config.sample_config import ScaleLike as ScaleLike
from skipjax.config.sample_config import SizeLike as SizeLike
from skipjax.config.sampler import Sampler as Sampler
from skipjax.config.sampler import diffused_shape as diffused_shape
from skipjax.config.sampler import resolve as resolve
