"""What `ip netns exec NAMESPACE` lays over /etc, so that a lab host's names resolve in it as they do on the host.

`ip` reads the folder /etc/netns/NAMESPACE. Here that is a link to a folder of the lab: a forgotten one leads nowhere
after the next start of the machine, and `ip` passes over it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from agent.errors import HostError

FOLDERS = Path("/etc/netns")
FILES = ("resolv.conf", "nsswitch.conf", "hosts")
"""Those of a host's etc/ that decide how names are looked up."""


def show(namespace: str, root: Path) -> None:
    """Let `ip netns exec` use the files under the host's etc/; raises HostError. A folder of somebody else's stays."""
    folder, link = root / "netns", FOLDERS / namespace
    folder.mkdir(mode=0o755)
    for name in FILES:
        if Path("/etc", name).exists():  # `ip` complains of what it can't lay over something
            (folder / name).symlink_to(root / "etc" / name)
    if link.is_dir() and not link.is_symlink():
        return
    try:
        FOLDERS.mkdir(mode=0o755, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    except OSError as error:
        raise HostError(f"lab: {link}: cannot be made: {error.strerror}") from error


def hide(namespace: str, lab: Path) -> None:
    """Undo `show` for a host of the lab in that folder; nothing if it isn't the lab's."""
    link = FOLDERS / namespace
    if not link.is_symlink() or lab not in Path(os.readlink(link)).parents:
        return
    link.unlink()
    with contextlib.suppress(OSError):  # another's is in it
        FOLDERS.rmdir()
