"""Single files of Stable Diffusion, by the names of CompVis and Stability AI, or diffusers'."""

from skipjax.weights.compvis.single_file import find as find
