"""Unix users of this host, by the name or number that configuration gives. Asks the user database, nothing else."""

from __future__ import annotations

import pwd


def uid_of(user: str) -> int | None:
    """Return a user's number, None if there is no such user; a number needs no entry."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
