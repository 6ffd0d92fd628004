"""Checkpoints as diffusers writes them: pipelines in folders, their components, and the hub."""

from skipjax.weights.diffusers.folder import describe as describe
from skipjax.weights.diffusers.folder import find as find
from skipjax.weights.diffusers.folder import is_folder as is_folder
from skipjax.weights.diffusers.save import save as save
from skipjax.weights.diffusers.save import tensors as tensors
