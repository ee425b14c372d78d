"""This host's own firewall: whether it lets in what interception has redirected to Envoy.

A firewall's rules see a captured connection at Envoy's port, not at the service's: where everything is refused that no
rule names, the service's port being open is not enough. Knows iptables' rules (so ufw's); firewalld's and what else is
written straight into nftables is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.cli.checkup.finding import Findings, Patient, warning
from agent.cli.checkup.kernel import run
from agent.config import load_workloads
from agent.mesh.ports import INBOUND_PORT

_OWN_PREFIX = "HOSTMESH_"
_REFUSING = ("DROP", "REJECT")
_ABOUT_OTHERS = {("-i", "lo"), ("--dst-type", "BROADCAST"), ("--dst-type", "MULTICAST"), ("--ctstate", "INVALID")}


def check_host_firewall(patient: Patient) -> Findings:
    """Say for each family whether captured connections of other hosts get past this host's own rules."""
    workloads, _ = load_workloads(patient.config.config_dir, patient.config.address or "127.0.0.1")
    if not workloads:
        return
    for family, program in (("IPv4", "iptables-save"), ("IPv6", "ip6tables-save")):
        saved = run([program, "-t", "filter"])
        if saved is not None and not saved.returncode and not lets_in(saved.stdout, INBOUND_PORT):
            yield warning(
                "firewall",
                f"this host's firewall refuses {family} connections to port {INBOUND_PORT}, where those to its "
                "services arrive once they are captured",
                f"let TCP {INBOUND_PORT} in from the mesh's hosts, with ufw: ufw allow {INBOUND_PORT}/tcp (direct "
                "connections to it are refused all the same)",
            )


def lets_in(saved: str, port: int) -> bool:
    """Tell whether a new TCP connection from another host to this port may pass INPUT, by what iptables-save prints.

    In doubt (a rule for some addresses only, a match that isn't known here) it may.
    """
    chains: dict[str, list[list[str]]] = {}
    policies: dict[str, str] = {}
    for line in saved.splitlines():
        words = line.split()
        if line.startswith(":"):
            policies[words[0][1:]] = words[1]
        elif line.startswith("-A "):
            chains.setdefault(words[1], []).append(words[2:])
    return (_verdict("INPUT", chains, port, 0) or policies.get("INPUT", "ACCEPT")) == "ACCEPT"


def _verdict(chain: str, chains: Mapping[str, Sequence[list[str]]], port: int, depth: int) -> str:
    """Return ACCEPT if a rule of this chain may, DROP if one surely refuses before that, else an empty text."""
    is_sure = True
    for words in chains.get(chain, ()):
        target = _after(words, "-j") or _after(words, "-g")
        if target.startswith(_OWN_PREFIX) or not _may_match(words, port):
            continue
        is_sure_here = is_sure and words[0] in ("-j", "-g")
        if target == "RETURN":
            if is_sure_here:
                return ""
            is_sure = False
        is_chain = target in chains and depth < len(chains)
        verdict = _verdict(target, chains, port, depth + 1) if is_chain else target
        if verdict == "ACCEPT":
            return verdict
        if verdict in _REFUSING and is_sure_here:
            return "DROP"
    return ""


def _may_match(words: Sequence[str], port: int) -> bool:
    """Tell whether a rule may be about such a connection."""
    if _after(words, "-p") not in ("", "tcp", "all"):
        return False
    named = _after(words, "--dport") or _after(words, "--dports")
    if named and any(_holds(part, port) for part in named.split(",")) == _is_negated(words, "--dport", "--dports"):
        return False
    states = _after(words, "--ctstate") or _after(words, "--state")
    if states and not {"NEW", "DNAT"} & set(states.split(",")):
        return _is_negated(words, "--ctstate", "--state")
    return not any(_after(words, option) == value and not _is_negated(words, option) for option, value in _ABOUT_OTHERS)


def _holds(part: str, port: int) -> bool:
    first, _, last = part.partition(":")
    return first.isdecimal() and int(first) <= port <= int(last if last.isdecimal() else first)


def _after(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _is_negated(words: Iterable[str], *options: str) -> bool:
    listed = list(words)
    return any(option in listed and listed[listed.index(option) - 1] == "!" for option in options)
