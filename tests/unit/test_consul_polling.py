"""What a follower asks after Consul was away: for an answer that a server may only give when it has read its log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.adapters.consul.lanes import WAIT, Answer, Lane
from agent.adapters.consul.polling import Follower, Link
from agent.errors import ConsulUnavailable


class Script(Lane):
    """A lane that answers what it is told, and notes what it was asked."""

    def __init__(self, *answers: int | None) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[int, bool]] = []
        """(index, whether a consistent answer was asked for)."""

    async def poll(
        self, path: str, params: Mapping[str, Any], index: int = 0, content_hash: str = "", patience: float = WAIT
    ) -> Answer:
        self.asked.append((index, "consistent" in params))
        answer = self._answers.pop(0)
        if answer is None:
            raise ConsulUnavailable(path)
        return Answer(200, answer, "", b"")


async def asked(link: Link, leads: bool, *answers: int | None) -> list[tuple[int, bool]]:
    lane = Script(*answers)
    follower = Follower(lane, link, "catalog/services", leads=leads, min_interval=0.0)
    wanted = sum(answer is not None for answer in answers)
    async for _ in follower.answers():
        wanted -= 1
        if not wanted:
            break
    return lane.asked


def link() -> Link:
    return Link("catalog", lambda _: None, lambda: None)


async def test_a_first_read_and_a_wait_ask_for_nothing_special() -> None:
    assert await asked(link(), True, 5, 6) == [(0, False), (5, False)]


async def test_after_an_error_the_answer_must_be_consistent() -> None:
    for leads in (True, False):
        assert await asked(link(), leads, 5, None, None, 6, 7) == [
            (0, False),
            (5, False),
            (0, True),
            (0, True),
            (6, False),
        ]


async def test_who_begins_after_a_loss_asks_so_too() -> None:
    lost = link()
    lost.failed("gone")
    lost.succeeded()
    assert await asked(lost, False, 5) == [(0, True)]
