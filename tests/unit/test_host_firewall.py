"""Whether a host's own firewall lets captured connections in, by what iptables-save prints."""

from __future__ import annotations

import pytest

from agent.cli.checkup.host_firewall import lets_in

UFW = """*filter
:INPUT DROP [0:0]
:HOSTMESH_INPUT - [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-skip-to-policy-input - [0:0]
-A INPUT -j HOSTMESH_INPUT
-A INPUT -j ufw-before-input
-A INPUT -p udp -m udp --dport 137 -j ufw-skip-to-policy-input
-A HOSTMESH_INPUT -p tcp -m multiport --dports 15001,15006 -j ACCEPT
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT
{more}
-A ufw-skip-to-policy-input -j DROP
COMMIT
"""


def chain(*rules: str, policy: str = "ACCEPT") -> str:
    return "\n".join(["*filter", f":INPUT {policy} [0:0]", *(f"-A INPUT {rule}" for rule in rules), "COMMIT"])


@pytest.mark.parametrize(
    ("more", "passes"),
    [
        ("", False),
        ("-A ufw-user-input -p tcp -m tcp --dport 15006 -j ACCEPT", True),
        ("-A ufw-user-input -p udp -m udp --dport 15006 -j ACCEPT", False),
        ("-A ufw-user-input -s 10.0.0.0/8 -j ACCEPT", True),
        ("-A ufw-user-input -p tcp -m multiport --dports 80,15000:15100 -j ACCEPT", True),
        ("-A ufw-user-input -p tcp -m multiport --dports 80,15007:15100 -j ACCEPT", False),
    ],
)
def test_ufw(more: str, passes: bool) -> None:
    assert lets_in(UFW.format(more=more), 15006) is passes


@pytest.mark.parametrize(
    ("saved", "passes"),
    [
        ("", True),
        (chain("-p tcp -m tcp --dport 9080 -j DROP"), True),
        (chain(policy="DROP"), False),
        (chain("-i lo -j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT", "-j REJECT --reject-with tcp-reset"), False),
        (chain("-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT", "-j REJECT"), True),
        (chain("! -i lo -p tcp -m tcp ! --dport 22 -j ACCEPT", "-j DROP"), True),
        (chain("-s 10.1.0.0/16 -j DROP"), True),
    ],
)
def test_other_firewalls(saved: str, passes: bool) -> None:
    assert lets_in(saved, 15006) is passes
