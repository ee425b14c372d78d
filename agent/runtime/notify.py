"""Tells systemd how the agent is (sd_notify); does nothing where systemd did not start it."""

from __future__ import annotations

import os


def notify(message: str) -> None:
    """Send one sd_notify message such as `READY=1` or `STATUS=…` (sd_notify(3))."""
    if "NOTIFY_SOCKET" not in os.environ:
        return
    from systemd import daemon

    daemon.notify(message)
