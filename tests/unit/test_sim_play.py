"""Sites that start beside the service: the same sites, and a failed start is told to who steps them."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from cluster_sim import play
from cluster_sim.day import day_of
from cluster_sim.play import EngineToCome, engine_of
from cluster_sim.scenarios import load_scenario

TINY = load_scenario("tiny-cloud-edge")
SEED = 42


def test_sites_to_come_report_what_sites_at_hand_report():
    at_hand = engine_of("local", TINY, SEED, dict(day_of(TINY, SEED)[1].fates))
    with closing(EngineToCome("local", TINY, SEED)) as to_come:
        for until_s in (TINY.start_s + 300, TINY.start_s + 600):
            assert to_come.step([], until_s) == at_hand.step([], until_s)


class Sites:
    def __init__(self) -> None:
        self.made_on = threading.current_thread()
        self.closed_on: threading.Thread | None = None
        self.was_alive = False

    def step(self, commands, until_s):
        self.was_alive = self.made_on.is_alive()
        return until_s

    def stop_site(self, site_id):
        raise NotImplementedError

    def close(self):
        self.closed_on = threading.current_thread()


def test_the_thread_that_started_the_sites_lives_and_ends_with_them(monkeypatch):
    """The kernel ends Ray's processes with the thread that started them."""
    sites: list[Sites] = []

    def made_here(*_):
        sites.append(Sites())
        return sites[0]

    monkeypatch.setattr(play, "engine_of", made_here)
    with closing(EngineToCome("ray", TINY, SEED)) as to_come:
        to_come.step([], 1)
    (made,) = sites
    assert made.was_alive and made.closed_on is made.made_on and not made.made_on.is_alive()


def test_a_failed_start_is_raised_by_the_first_step_and_not_by_the_end(monkeypatch):
    def fails(*_):
        raise OSError("no room for sockets")

    monkeypatch.setattr(play, "engine_of", fails)
    with closing(EngineToCome("ray", TINY, SEED)) as to_come, pytest.raises(OSError, match="no room"):
        to_come.step([], 1)
