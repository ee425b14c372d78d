"""What Envoys that hand over to each other share: a number (base-id) and a file in /dev/shm, which stays after them."""

from __future__ import annotations

import secrets
from pathlib import Path

FOLDER = Path("/dev/shm")


def new_base_id() -> int:
    """Return a base-id that no other Envoy has, of this host or of one that shares its /dev/shm (hosts of a lab)."""
    return secrets.randbelow(1 << 28)


def remove_shared_memory(base_id: int) -> None:
    """Remove what Envoys of this base-id left in /dev/shm."""
    (FOLDER / f"envoy_shared_memory_{base_id * 10}").unlink(missing_ok=True)  # the factor is Envoy's
