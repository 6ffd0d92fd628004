"""Batch generation: many pictures, by many processes, each of which may die at any moment.

A shard is a function of its ids. What processes tell each other saves work, and nothing rests on
it: two that draw one shard at once write the same file. `storage` says what is in a job's folder.
"""

from skipjax.jobs.checking import Verdict as Verdict
from skipjax.jobs.checking import verify as verify
from skipjax.jobs.estimate import Estimate as Estimate
from skipjax.jobs.estimate import estimate as estimate
from skipjax.jobs.export import Exported as Exported
from skipjax.jobs.export import export as export
from skipjax.jobs.group import distribute as distribute
from skipjax.jobs.job import Job as Job
from skipjax.jobs.kept import keep_compiled as keep_compiled
from skipjax.jobs.reporting import Bar as Bar
from skipjax.jobs.reporting import Lines as Lines
from skipjax.jobs.reporting import Report as Report
from skipjax.jobs.run import Outcome as Outcome
from skipjax.jobs.run import run as run
from skipjax.jobs.signals import Stop as Stop
