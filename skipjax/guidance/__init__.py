"""What makes a denoiser prefer what its condition says: values, and denoisers that wrap denoisers.

A scale may be traced, so that a sweep over it runs one compiled program; so may the interval of
times (low, high), both included, outside which there is no guidance and nothing is computed for it
(Kynkaanniemi et al. 2024, arXiv:2404.07724).
"""

from skipjax.guidance.free import ClassifierFree as ClassifierFree
from skipjax.guidance.free import classifier_free as classifier_free
from skipjax.guidance.gradient import CLASS as CLASS
from skipjax.guidance.gradient import ByClassifier as ByClassifier
from skipjax.guidance.gradient import LogProb as LogProb
from skipjax.guidance.gradient import classifier as classifier
from skipjax.guidance.interval import Interval as Interval
from skipjax.guidance.second_network import Autoguidance as Autoguidance
from skipjax.guidance.second_network import autoguided as autoguided
from skipjax.guidance.second_network import check_guide as check_guide

Guidance = ClassifierFree | ByClassifier | Autoguidance
