"""What a package could leave behind on a machine, as text that can be compared: before and after its life there."""

from __future__ import annotations

import difflib
import re

from tests.e2e.machine import Machine

_PRUNED = " -o ".join(
    f"-path {path}"
    # What other programs write whenever they like, dpkg's own books, and useradd's copies of what was there before.
    for path in (
        *("/mnt", "/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/backups"),
        *("/var/lib/dpkg", "/var/lib/systemd", "/var/lib/consul", "/var/lib/private"),
        *("'/etc/passwd-'", "'/etc/group-'", "'/etc/shadow-'", "'/etc/gshadow-'", "/etc/.pwd.lock"),
    )
)
_LOOK = {
    "files": f"find / \\( {_PRUNED} \\) -prune -o -printf '%p %y %m %u %g %l\\n' | sort",
    "content of /etc": "find /etc -type f ! -name '*-' ! -name .pwd.lock -exec sha256sum {} + | sort -k 2",
    "users": "getent passwd; getent group",
    "resolv.conf": "cat /etc/resolv.conf",
    "shared memory": "ls -A /dev/shm",
    "sockets and folders in /run": "ls -A /run",
    "unit files": "systemctl list-unit-files --no-legend --no-pager",
    "units that failed": "systemctl --failed --no-legend --no-pager",
    "dnsmasq": "systemctl is-active dnsmasq; tr '\\0' ' ' </proc/$(systemctl show --value -p MainPID dnsmasq)/cmdline",
    "routes": "ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; ip -o address",
    "kernel settings": "sysctl -a 2>/dev/null | grep -E '^net\\..*(route_localnet|rp_filter|forward|bindv6only)'",
    "private mounts": "grep -c hostmesh /proc/self/mountinfo",
}


def fingerprint(machine: Machine) -> dict[str, list[str]]:
    """Return what there is, by kind."""
    seen = {what: machine.run("sh", "-c", f"{look} || true").stdout.splitlines() for what, look in _LOOK.items()}
    seen["routes"] = [re.sub(r"(expires|valid_lft|preferred_lft) \S+", "", line) for line in seen["routes"]]
    for program in ("iptables-save", "ip6tables-save"):
        seen[program] = normalized(machine.run(program).stdout)
    return seen


def normalized(saved: str) -> list[str]:
    """Return the lines of iptables-save without comments, counters, and tables that say nothing."""
    lines: list[str] = []
    for table in re.split(r"^(?=\*)", saved, flags=re.MULTILINE)[1:]:
        content = [re.sub(r"\[\d+:\d+\]", "", line).strip() for line in table.splitlines() if line[:1] not in "#"]
        if any(line and not re.fullmatch(r"\*\w+|:[A-Z]+ ACCEPT|COMMIT", line) for line in content):
            lines += content
    return lines


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> str:
    """Return what is not as it was, "" if all is."""
    lines = []
    for what in before:
        changes = list(difflib.unified_diff(before[what], after[what], "before", "after", n=0, lineterm=""))
        lines += [what, *changes] if changes else []
    return "\n".join(lines)
