"""Locks that show signs of life, and leases on what dead workers left."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
import uuid

import pytest

from skipjax.jobs import locks, storage
from skipjax.jobs.locks import Lock, Owner


@pytest.fixture(params=["folder", "object store"])
def store(request, tmp_path):
    kinds = {"folder": tmp_path / "run", "object store": f"memory://{uuid.uuid4().hex}/run"}
    return storage.store(kinds[request.param])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "EXPIRES", 0.5)


def elsewhere(**changes):
    """A process on another machine."""
    here = Owner.here(1)
    return dataclasses.replace(here, **{"space": "another", "host": "other"} | changes)


def write(store, name, owner):
    store.put(f"workers/{name}.json", json.dumps(dataclasses.asdict(owner)).encode())


def lock(store, owner=None, name="0", on_lost=lambda: None):
    return Lock(store, name, owner or Owner.here(1), on_lost)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_beats_while_it_is_held_and_goes_with_its_block(store):
    owner = Owner.here(1)
    with lock(store, owner):
        until(lambda: (held := locks.living(store).get("0")) and held.beat > owner.beat)
        assert locks.living(store)["0"].token == owner.token
    assert store.sizes("workers") == {} and locks.living(store) == {}


def test_a_living_process_of_this_machine_is_refused_at_once(store):
    with lock(store):
        began = time.perf_counter()
        with pytest.raises(ValueError, match=r"0 is at work already \(process \d+ on .*, since 2"):
            lock(store).__enter__()
        assert time.perf_counter() - began < 0.3
        with lock(store, name="1"):
            assert locks.living(store).keys() == {"0", "1"}


def test_a_process_of_this_machine_that_has_ended_gives_way_at_once(store):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    theirs = dataclasses.replace(elsewhere(), space=Owner.here(1).space, pid=child.pid)
    theirs = dataclasses.replace(theirs, born=locks._born(child.pid))
    write(store, "0", theirs)
    assert not theirs.dead
    child.kill()
    until(lambda: theirs.dead)  # before anybody waits for it
    child.wait()
    with lock(store):
        assert locks.living(store)["0"].pid != child.pid


def test_another_process_of_the_same_number_is_another(store):
    theirs = dataclasses.replace(Owner.here(1), born="long ago")
    assert theirs.gone
    write(store, "0", theirs)
    with lock(store):
        pass


def test_a_process_elsewhere_is_dead_after_a_while_of_silence(store):
    write(store, "0", elsewhere())
    assert not elsewhere().dead and elsewhere(beat=time.time() - 1).dead
    began = time.perf_counter()
    with lock(store):
        assert 0.3 < time.perf_counter() - began < 2


def test_a_process_elsewhere_that_shows_signs_of_life_is_refused(store):
    theirs, stop = elsewhere(), threading.Event()

    def beat():
        while not stop.wait(0.05):
            write(store, "0", dataclasses.replace(theirs, beat=time.time()))

    write(store, "0", theirs)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ValueError, match="0 is at work already .* on other"):
            lock(store).__enter__()
    finally:
        stop.set()
        thread.join()


def test_a_lock_that_is_no_lock_gives_way_after_a_while(store):
    store.put("workers/0.json", b"{")
    with lock(store):
        assert "0" in locks.living(store)


def test_a_lock_that_another_took_is_lost_and_left_to_it(store):
    lost = threading.Event()
    theirs = elsewhere()
    with lock(store, on_lost=lost.set):
        write(store, "0", theirs)
        assert lost.wait(2)
    assert locks.owner(store, "workers/0.json") == theirs


def test_workers_must_agree_on_their_number(store):
    with lock(store, Owner.here(3), "2"):
        with pytest.raises(ValueError, match="a worker of 3 is at work .* and this is one of 1"):
            lock(store).__enter__()
        with lock(store, Owner.here(3), "0"):
            pass


def test_a_lease_is_for_one_living_worker(store):
    ours, theirs = Owner.here(2), dataclasses.replace(Owner.here(2), token="theirs")
    with lock(store, ours, "0"), lock(store, theirs, "1"):
        assert locks.lease(store, 7, ours)
        assert not locks.lease(store, 7, theirs) and locks.lease(store, 7, ours)
        assert locks.leased(store).keys() == {7}
        locks.end_lease(store, 7)
        assert locks.leased(store) == {} and locks.lease(store, 7, theirs)
    with lock(store, ours, "0"):
        assert locks.leased(store) == {}
        assert locks.lease(store, 7, ours)  # of one that is no more
