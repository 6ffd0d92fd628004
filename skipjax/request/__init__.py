"""What is asked of `sample`, checked and completed before anything is compiled."""

from skipjax.request.arguments import dtype as dtype
from skipjax.request.arguments import ids as ids
from skipjax.request.arguments import key as key
from skipjax.request.arguments import low_res as low_res
from skipjax.request.arguments import network as network
from skipjax.request.arguments import threshold as threshold
from skipjax.request.guide import guide as guide
from skipjax.request.guide import labelled as labelled
from skipjax.request.guide import towards as towards
from skipjax.request.sampler import plan as plan
from skipjax.request.sampler import plan_or_name as plan_or_name
