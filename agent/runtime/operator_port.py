"""The operator port: views of this host's Envoy for operators on other hosts. Reads only.

Both sides are known by Consul's ACLs and by nothing else: the agent by the certificate whose fingerprint it writes into
its status document, which agents alone may write; the operator by a single-use ticket (agent/mesh/tickets.py), which
operators alone may write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus

from agent.adapters.consul.tickets import TicketBox
from agent.adapters.https_door import Allowance, HttpsDoor, Question, Reply
from agent.adapters.proxy.admin import AdminClient
from agent.errors import ConsulRefused, HostError, HostmeshError
from agent.mesh.names import KV_TICKETS
from agent.mesh.routes import Fault
from agent.mesh.status import OperatorAccess
from agent.mesh.tickets import Proof, read_proof, read_ticket
from agent.runtime.views import VIEWS, open_view

log = logging.getLogger(__name__)

RETRY_SECONDS = 15.0
SWEEP_SECONDS = 60.0
VIEWS_AT_A_TIME = 2
TURN_SECONDS = 5.0
"""How long a question waits for its turn."""
LOG_BURST, LOG_PER_SECOND = 20.0, 0.2
"""Refusals that are told to the log: a storm of them must not fill the disk."""
_NO_TICKET = "no such ticket: it is used already, over, or for another host"


class OperatorPort:
    """Answers `GET /envoy/<view>` with a ticket. `run` must be running for anything to be answered."""

    def __init__(self, tickets: TicketBox, envoy: AdminClient, now: Callable[[], float] = time.time) -> None:
        self._tickets, self._envoy, self._now = tickets, envoy, now
        self._turns = asyncio.Semaphore(VIEWS_AT_A_TIME)
        self._told = Allowance(LOG_BURST, LOG_PER_SECOND)

    async def run(
        self,
        address: str,
        port: int,
        announce: Callable[[OperatorAccess], None],
        report: Callable[[tuple[Fault, ...]], None],
    ) -> None:
        """Listen until cancelled; a port that cannot be listened on is a fault, and tried again."""
        door = HttpsDoor(self._answer)
        try:
            await _listen(door, address, port, report)
            announce(OperatorAccess(address, port, door.fingerprint))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(door.run())
                tasks.create_task(self._sweep_for_ever())
        finally:
            await door.close()

    async def _answer(self, question: Question, reply: Reply) -> None:
        view = question.path.removeprefix("/envoy/")
        proof = read_proof(question.authorization)
        try:
            refusal = await self._refusal(proof, view)
        except ConsulRefused as error:
            rule = f'key_prefix "{KV_TICKETS}<node>/" {{ policy = "write" }}'
            log.warning("operator port: the agent's Consul token needs the rule %s: %s", rule, error)
            await reply.say(HTTPStatus.SERVICE_UNAVAILABLE, f"the agent's Consul token needs the rule {rule}")
            return
        except HostmeshError as error:
            await reply.say(HTTPStatus.SERVICE_UNAVAILABLE, f"the agent cannot look at the ticket: {error}")
            return
        if refusal:
            self._note_refusal(question, refusal)
            await reply.say(HTTPStatus.FORBIDDEN, refusal)
        elif view not in VIEWS:
            await reply.say(HTTPStatus.NOT_FOUND, f"no such view (one of {', '.join(VIEWS)})")
        else:
            log.info("operator port: %s reads %s (ticket %s)", question.source, view, proof.id[:8] if proof else "")
            await self._show(view, reply)

    async def _refusal(self, proof: Proof | None, view: str) -> str | None:
        """Return why not, None if the ticket is good; a good one is used up by this."""
        if proof is None:
            return "a ticket is needed (`hostmesh proxy-config … NODE` makes one)"
        found = await self._tickets.read(proof.id)
        ticket = read_ticket(found[0]) if found else None
        # Who does not know the secret cannot use the ticket up either.
        if (
            found is None
            or ticket is None
            or not proof.opens(ticket)
            or not await self._tickets.spend(proof.id, found[1])
        ):
            return _NO_TICKET
        return ticket.fault(view, self._now())

    async def _show(self, view: str, reply: Reply) -> None:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            await reply.say(HTTPStatus.SERVICE_UNAVAILABLE, "others are asking; try again in a moment")
            return
        try:
            async with open_view(self._envoy, view) as opened:
                await reply.begin(HTTPStatus.OK, opened.content_type)
                async for piece in opened.pieces:
                    await reply.write(piece)
                await reply.end()
        except HostError as error:
            if reply.status:
                log.warning("operator port: an answer was cut off: %s", error)  # the reader sees that it has no end
            else:
                await reply.say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        finally:
            self._turns.release()

    def _note_refusal(self, question: Question, refusal: str) -> None:
        if self._told.spend(1.0, asyncio.get_running_loop().time()):
            log.warning("operator port: %s is refused %s: %s", question.source, question.path[:80], refusal)

    async def sweep(self) -> None:
        """Delete the tickets that nobody used."""
        try:
            await self._tickets.sweep(self._is_over)
        except HostmeshError as error:
            log.debug("operator port: old tickets stay: %s", error)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    def _is_over(self, value: bytes) -> bool:
        ticket = read_ticket(value)
        return ticket is None or not ticket.is_current(self._now())


async def _listen(door: HttpsDoor, address: str, port: int, report: Callable[[tuple[Fault, ...]], None]) -> None:
    """Return once the door listens; until then it is a fault."""
    while True:
        try:
            door.listen(address, port)
        except HostError as error:
            hint = (
                "operators on other hosts cannot ask this agent (agent.yaml: operator.port, or operator.enabled: false)"
            )
            report((Fault("operator port", f"{error}; {hint}"),))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            report(())
            return
