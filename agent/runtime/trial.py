"""A change of interception on trial (commit-confirm): kept if it costs the host nothing or the operator says so.

Runs as a process of its own, which the operator's terminal cannot take along: whoever started it may be cut off by the
very change. What is on trial stands in the run folder, so that another terminal can confirm it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.adapters.files import write_atomic
from agent.adapters.netfilter.hold import Hold
from agent.adapters.netfilter.interception import Interception, Standing
from agent.adapters.probes import Probe
from agent.errors import HostError, UserError
from agent.translate.netfilter import NetfilterText

LOOK_SECONDS = 2.0
FAILURES = 3
"""So many looks in a row that a probe fails in, and the change is taken back before its time."""


class Trial:
    """One change, from before it is made until it is kept or taken back."""

    def __init__(
        self,
        run_dir: Path,
        adapter: Interception,
        restore: Callable[[Standing], Interception],
        probes: Mapping[str, Probe],
        say: Callable[[str], None],
    ) -> None:
        self._file = run_dir / "interception.trial"
        self._adapter = adapter
        self._restore = restore
        self._probes = probes
        self._say = say
        self._hold = Hold(run_dir)

    async def run(self, rules: NetfilterText, seconds: float, prepare: Callable[[], None] = lambda: None) -> bool:
        """Apply the rules, look for so long, and tell whether they were kept; raises HostError.

        A probe that fails already before counts for nothing. While the trial lasts, and after a change was taken back,
        the agent leaves interception alone; `prepare` is called when it does.
        """
        if self._file.exists():
            raise UserError("another change is on trial: wait for its end, or `hostmesh interception confirm` it")
        counted = [name for name, holds in (await self._look(self._probes)).items() if holds]
        skipped = sorted(set(self._probes) - set(counted))
        self._say(
            f"probed: {', '.join(counted) or 'nothing'}" + (f" (down before: {', '.join(skipped)})" * bool(skipped))
        )
        standing = await self._adapter.standing()
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        write_atomic(self._file, b"pending\n", mode=0o644)
        try:
            self._hold.set(
                f"a change of interception is on trial until {until} (`hostmesh interception confirm` keeps it)"
            )
            prepare()
            try:
                await self._adapter.apply(rules.v4, rules.v6)
                reason = await self._watch({name: self._probes[name] for name in counted}, seconds)
            except BaseException as error:
                await self._take_back(standing, f"{error or type(error).__name__}")
                raise
            if reason is not None:
                await self._take_back(standing, reason)
                return False
            self._hold.release()
            return True
        finally:
            self._file.unlink(missing_ok=True)

    async def _watch(self, counted: Mapping[str, Probe], seconds: float) -> str | None:
        """Return why the change can't stay, None if it can."""
        end, failed = time.monotonic() + seconds, dict.fromkeys(counted, 0)
        while True:
            if not self._is_pending():
                self._say("confirmed")
                return None
            found = await self._look(counted)
            failed = {name: 0 if holds else failed[name] + 1 for name, holds in found.items()}
            down = sorted(name for name, times in failed.items() if times)
            is_over = time.monotonic() >= end
            if down and (is_over or max(failed.values()) >= FAILURES):
                return f"{', '.join(down)} did not answer any more"
            if is_over:
                return None
            await asyncio.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))

    async def _take_back(self, standing: Standing, reason: str) -> None:
        self._say(f"taking the change back: {reason}")
        await self._restore(standing).apply(standing.v4, standing.v6)
        self._hold.set(
            f"a change of interception was taken back at {time.strftime('%H:%M:%S')}: {reason}"
            " (mend the settings, then `hostmesh interception apply`)"
        )

    async def _look(self, wanted: Mapping[str, Probe]) -> dict[str, bool]:
        results = await asyncio.gather(*(asyncio.to_thread(probe) for probe in wanted.values()))
        return dict(zip(wanted, results, strict=True))

    def _is_pending(self) -> bool:
        try:
            return self._file.read_bytes() == b"pending\n"
        except OSError:
            return True  # nobody confirms by taking the file away


def confirm(run_dir: Path) -> None:
    """Keep the change that is on trial; raises UserError if there is none, HostError if it can't be said."""
    file = run_dir / "interception.trial"
    if not file.exists():
        raise UserError("no change of interception is on trial")
    write_atomic(file, b"confirmed\n", mode=0o644)


def forget(run_dir: Path) -> None:
    """Forget a trial whose process was killed; raises HostError."""
    try:
        (run_dir / "interception.trial").unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"{run_dir}: {error.strerror or error}") from error
