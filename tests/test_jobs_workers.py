"""Which worker a process is: asked for, or said by Slurm and Kubernetes."""

import pytest

from skipjax.jobs.workers import Worker, worker

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
}
STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}


def test_what_is_asked_for_comes_before_what_a_cluster_says(subtests):
    for asked, env, expected in (
        ((None, None), {}, (0, 1)),
        ((2, 3), {}, (2, 3)),
        ((2, 3), ARRAY, (2, 3)),
        ((None, None), ARRAY, (3, 5)),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}, (0, 1)),
        ((None, None), STEP, (2, 4)),
        ((None, None), ARRAY | STEP, (14, 20)),
        # A batch script of eight tasks runs once.
        ((None, None), {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),
        ((None, 6), {"JOB_COMPLETION_INDEX": "4"}, (4, 6)),
    ):
        with subtests.test(asked=asked, env=env):
            assert worker(*asked, env=env) == Worker(*expected)


def test_numbers_that_do_not_fit_are_refused(subtests):
    fifth = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    for asked, env, said in (
        ((1, None), {}, "--worker and --num-workers say only one number: give --num-workers too"),
        ((None, 3), {}, "give --worker too"),
        ((3, 3), {}, "worker 3 of 3: workers are 0 .. 2"),
        ((-1, 3), {}, "workers are 0 .. 2"),
        ((0, 0), {}, "num_workers is 0"),
        ((None, None), {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX .*give --num-workers"),
        ((None, 3), {"JOB_COMPLETION_INDEX": "4"}, "worker 4 of 3"),
        ((None, None), fifth, r"SLURM_\* say worker 4 of 2: .*give --worker"),
    ):
        with subtests.test(asked=asked, env=env):
            with pytest.raises(ValueError, match=said):
                worker(*asked, env=env)


def test_every_shard_has_one_owner():
    owners = [[Worker(i, 3).owns(shard) for i in range(3)] for shard in range(20)]
    assert [sum(own) for own in owners] == [1] * 20
