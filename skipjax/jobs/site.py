"""Where a worker works, and what it finds there."""

from collections.abc import Sequence
from typing import NamedTuple

from skipjax.jobs import checking
from skipjax.jobs.locks import Owner
from skipjax.jobs.manifest import Manifest
from skipjax.jobs.reporting import Report
from skipjax.jobs.shards import Layout
from skipjax.jobs.storage import Store
from skipjax.jobs.workers import Worker

SHOWN = 10  # shards to be made again that are named one by one


class Site(NamedTuple):
    """Where a worker works, and as whom.

    Attributes:
        store: Of the job.
        job: Its hash.
        layout: How it is cut into shards.
        place: Which worker this is.
        owner: Which process this is.
    """

    store: Store
    job: str
    layout: Layout
    place: Worker
    owner: Owner

    @property
    def own(self) -> list[int]:
        """The shards that are this worker's to make."""
        return [shard for shard in range(self.layout.count) if self.place.owns(shard)]

    def many(self, some: Sequence[int]) -> int:
        """Pictures in some shards."""
        return sum(len(self.layout.ids(shard)) for shard in some)

    def unmade(self) -> list[int]:
        """Shards of the whole job that are not finished."""
        return checking.unmade(self.store, self.layout, Manifest(self.store, self.job))

    def survey(self, report: Report) -> list[int]:
        """Mends what earlier runs left, and finds this worker's shards that are not whole."""
        store, layout = self.store, self.layout
        mended = checking.mend(store, self.job, self.owner)
        faults = checking.faults(store, layout, Manifest(store, self.job), self.own)
        again = [shard for shard, fault in faults.items() if fault != checking.NOT_MADE]
        foreign = checking.foreign(store, layout)
        for line in (
            *mended,
            *(f"{layout.name(k)} {faults[k]}: made again" for k in again[:SHOWN]),
            *([f"and {len(again) - SHOWN} more are made again"] if len(again) > SHOWN else []),
            *(f"{name} is no file of this job: left alone" for name in foreign[:SHOWN]),
        ):
            report.say("mended", f"{store}: {line}")
        total, left = self.many(self.own), self.many(list(faults))
        report.say(
            "start",
            f"{store}: {self.place}, {total - left:,} of {total:,} pictures are there already",
            job=self.job,
            worker=self.place.index,
            num_workers=self.place.count,
            pictures=total,
            done=total - left,
            shards=len(self.own),
        )
        return list(faults)
