"""Kernel features and the variant of iptables: whether this machine can capture at all, and who else writes rules."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.cli.checkup.finding import Finding, Findings, Patient, error, ok, warning

_TRIAL = """*nat
:HOSTMESH_TRIAL - [0:0]
-A HOSTMESH_TRIAL -p tcp -m owner --uid-owner 0 -j RETURN
-A HOSTMESH_TRIAL -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 15001
COMMIT
*filter
:HOSTMESH_TRIAL - [0:0]
-A HOSTMESH_TRIAL -p tcp -m conntrack --ctstate DNAT -j RETURN
-A HOSTMESH_TRIAL -p tcp -j REJECT --reject-with tcp-reset
COMMIT
"""
"""What interception needs; restore with --test makes nothing of it."""
_MODULES = "modprobe -a nf_nat nf_conntrack xt_REDIRECT xt_owner xt_conntrack xt_multiport ipt_REJECT"


def check_kernel(patient: Patient) -> Findings:
    """Look at iptables for both families, at a second variant's rules, and at /dev/shm, which Envoy needs."""
    yield _restores("iptables", "iptables-restore", needed=True)
    if _has_ipv6():
        yield _restores("ip6tables", "ip6tables-restore", needed=False)
    else:
        yield warning(
            "kernel", "IPv6 is disabled: only IPv4 is captured", "sysctl -w net.ipv6.conf.all.disable_ipv6=0, if wanted"
        )
    yield from _variants()
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield error("kernel", "/dev/shm is not there: Envoy cannot restart hot", "mount -t tmpfs tmpfs /dev/shm")


def _restores(name: str, program: str, *, needed: bool) -> Finding:
    done = run(
        [program, "--test", "--noflush", "-w"], _TRIAL if name == "iptables" else _TRIAL.replace("ipt_", "ip6t_")
    )
    if done is None:
        return error("kernel", f"{program} is not installed", "apt install iptables")
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        finding = error if needed else warning
        return finding("kernel", f"{name} cannot make the rules that capture needs: {said}", f"{_MODULES} (as root)")
    return ok("kernel", f"{name} can redirect, and match users and connection states")


def _variants() -> Findings:
    """Two variants' rules hold side by side, and neither shows the other's."""
    rules = {}
    for variant in ("nft", "legacy"):
        done = run([f"iptables-{variant}-save"])
        rules[variant] = done.stdout.count("\n-A ") if done and not done.returncode else 0
    present = run(["iptables", "--version"])
    mine = "legacy" if present and "legacy" in present.stdout else "nft"
    other = "nft" if mine == "legacy" else "legacy"
    if rules[other]:
        yield warning(
            "iptables",
            f"iptables is the {mine} variant, but {rules[other]} rules stand in the {other} one, and hold as well",
            f"look at `iptables-{other}-save`; use one variant: update-alternatives --config iptables",
        )
    else:
        yield ok("iptables", f"the {mine} variant, alone")


def _has_ipv6() -> bool:
    try:
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def run(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str] | None:
    """Run a program to its end; None if it isn't there or takes too long."""
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
