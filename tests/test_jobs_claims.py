"""Claims: who draws which shard, seen by clocks that do not agree."""

import json
import threading
import uuid

import pytest

from skipjax.jobs import claims, storage
from skipjax.jobs.claims import Claims


@pytest.fixture(params=["folder", "object store"])
def store(request, tmp_path):
    kinds = {"folder": tmp_path / "run", "object store": f"memory://{uuid.uuid4().hex}/run"}
    return storage.store(kinds[request.param])


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to; on the walls of two hosts, as far apart as told."""

    class Clock:
        now, skew = 1e6, 0.0

        def monotonic(self):
            return self.now

        def time(self):
            return 1e9 + self.now + self.skew

    clock = Clock()
    monkeypatch.setattr(claims, "time", clock)
    return clock


def said(store, shard=7):
    return json.loads(storage.read(store, f"claims/{shard:06d}.json") or b"null")


def test_of_two_claimants_one_has_the_shard_until_it_lets_go(store, clock):
    with Claims(store, 0) as ours, Claims(store, 1) as theirs:
        assert ours.take(7) and not theirs.take(7) and theirs.take(8)
        ours.release(7)
        assert said(store) is None and theirs.take(7) and not ours.take(7)
        ours.release(7)  # which is not its own
        assert said(store)["worker"] == 1
    assert store.names("claims") == set()


@pytest.mark.parametrize("skew", [-300, 0, 300])
def test_a_claim_is_void_when_it_stands_unchanged_for_its_lifetime(store, clock, skew):
    """By the clock of whoever waits: those of two hosts may be minutes apart."""
    dead, living = Claims(store, 1), Claims(store, 0)
    assert dead.take(7)
    clock.skew = skew
    assert not living.take(7)
    clock.now += claims.FIRST - 1
    assert not living.take(7)
    clock.now += 2
    assert living.take(7) and said(store)["worker"] == 0


@pytest.mark.parametrize("skew", [-300, 300])
def test_a_claim_that_is_renewed_holds(store, clock, skew):
    busy, waiting = Claims(store, 1), Claims(store, 0)
    assert busy.take(7)
    for _ in range(30):
        clock.now += 20  # a batch
        clock.skew = 0
        busy.renew()
        clock.skew = skew
        assert not waiting.take(7)
    assert said(store)["lifetime"] == claims.BATCHES * 20
    busy.release(7)
    assert waiting.take(7)


def test_the_first_batch_shortens_what_was_promised_before_it(store, clock):
    """Who dies in its first shard holds the others up no longer than who dies later."""
    dead, living = Claims(store, 1), Claims(store, 0)
    assert dead.take(7) and dead.take(8)
    clock.now += 0.5
    dead.renew()
    assert said(store, 7)["lifetime"] == said(store, 8)["lifetime"] == claims.LEAST
    assert not living.take(7)
    clock.now += claims.LEAST + 1
    assert living.take(7)


def test_a_claim_of_long_ago_is_void_at_once(store, clock):
    assert Claims(store, 1).take(7)
    clock.now += claims.FIRST + claims.SKEW + 1
    assert Claims(store, 0).take(7)


def test_a_claim_of_its_own_former_life_is_void_at_once(store, clock):
    assert Claims(store, 1).take(7) and Claims(store, 1).take(7)


@pytest.mark.parametrize("garbage", [b"", b'{"worker": 1, "li', b"\xff", b"[]", b"{}", b"7"])
def test_a_claim_that_is_no_claim_is_void_at_once(store, clock, garbage):
    store.put("claims/000007.json", garbage)
    with Claims(store, 0) as ours:
        assert ours.take(7)
        store.put("claims/000007.json", garbage)
        ours.renew()
        ours.release(7)
    assert storage.read(store, "claims/000007.json") == garbage  # it is nobody's


def test_a_claim_that_another_took_over_is_left_to_it(store, clock):
    slow, thief = Claims(store, 1), Claims(store, 0)
    assert slow.take(7) and not thief.take(7)
    clock.now += claims.FIRST + 1
    assert thief.take(7)
    slow.renew()
    slow.release(7)
    assert said(store)["worker"] == 0


def test_of_those_that_wait_for_a_stale_claim_none_deletes_anothers_fresh_one(
    store, clock, monkeypatch
):
    stale, first, second = (Claims(store, worker) for worker in (2, 0, 1))
    assert stale.take(7) and not first.take(7) and not second.take(7)
    clock.now += claims.FIRST + 1
    void = Claims._void

    def overtaken(self, shard, claim):
        found = void(self, shard, claim)
        if self is second:
            assert first.take(7)  # between the look and the deed
        return found

    monkeypatch.setattr(Claims, "_void", overtaken)
    assert not second.take(7) and said(store)["worker"] == 0


def test_of_many_at_once_one_creates(tmp_path):
    """On file systems, which create exclusively."""
    many = [Claims(storage.store(tmp_path), worker) for worker in range(8)]
    ready, taken = threading.Barrier(8), []

    def claim(one):
        for shard in range(20):
            ready.wait()
            if one.take(shard):
                taken.append(shard)

    threads = [threading.Thread(target=claim, args=[one]) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(20))
