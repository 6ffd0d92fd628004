"""Batch generation: many pictures, by many processes, each of which may die at any moment.

A job's folder:

    job.json              what is drawn, with the plan and the sha256 of the weights; its hash
    shards/000000.npz     the pictures of fixed ranges of ids
    manifest/0.jsonl      what worker 0 has finished: a line a shard, with its sha256
    workers/0.json        worker 0 is at work, and when it was last seen
    leases/000007.json    a shard that is made by another worker than its own
"""

from skipjax.jobs.checking import Verdict as Verdict
from skipjax.jobs.checking import verify as verify
from skipjax.jobs.estimate import Estimate as Estimate
from skipjax.jobs.estimate import estimate as estimate
from skipjax.jobs.export import Exported as Exported
from skipjax.jobs.export import export as export
from skipjax.jobs.group import distribute as distribute
from skipjax.jobs.job import Job as Job
from skipjax.jobs.locks import Lost as Lost
from skipjax.jobs.reporting import Bar as Bar
from skipjax.jobs.reporting import Lines as Lines
from skipjax.jobs.reporting import Report as Report
from skipjax.jobs.run import Outcome as Outcome
from skipjax.jobs.run import run as run
from skipjax.jobs.signals import Stop as Stop
