"""What this host's hostmesh says and holds: configuration, agent, Envoy, certificates, rules that have drifted."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from agent.cli.checkup.finding import Findings, Patient, error, ok, warning
from agent.cli.proxy_status import life
from agent.errors import HostError
from agent.runtime.configuration_check import check_configuration


def check_files(patient: Patient) -> Findings:
    """Say what `hostmesh-agent --check` says."""
    config = patient.config
    checked = check_configuration(config.config_dir, config.state_dir, config.run_dir)
    for problem in checked.problems:
        yield error("configuration", problem, "correct the file; `hostmesh-agent --check` looks again")
    for note in checked.notes:
        yield warning("configuration", note, f"see {config.config_dir}")
    if not checked.problems and not checked.notes:
        yield ok("configuration", checked.summary)


def check_agent(patient: Patient) -> Findings:
    """Say whether the agent runs, whether its Envoy has taken everything, and what it cannot use."""
    status = patient.status
    if status is None:
        yield error(
            "agent",
            "no hostmesh-agent answers on this host",
            "systemctl start hostmesh-agent; journalctl -u hostmesh-agent",
        )
        return
    if not status.proxy.connected:
        why = f" (it ended: {status.proxy.last_exit})" if status.proxy.last_exit else ""
        yield error("agent", f"Envoy is not connected{why}", "journalctl -t envoy; hostmesh proxy-status")
    for fault in (*status.proxy.nacks, *status.faults):
        yield error("agent", f"{fault.subject}: {fault.reason}", "correct what it names; the last good form serves on")
    if status.state == "SYNCED" and not status.faults:
        yield ok("agent", f"{status.agent_version}, Envoy {status.proxy.version} has acknowledged everything")


def check_certificates(patient: Patient) -> Findings:
    """Say how long the certificates that Envoy holds are good for."""
    now = time.time()
    for certificate in patient.status.certificates if patient.status else ():
        left = certificate.not_after - now
        if left <= 0:
            yield error(
                "certificates",
                f"{certificate.identity} ended {life(-left)} ago: peers refuse it",
                "hostmesh cert renew; if the CA refuses: hostmesh ca token create, into the join-token file",
            )
        elif certificate.renew_at and now > certificate.renew_at + max(60.0, left / 10):
            yield warning(
                "certificates",
                f"{certificate.identity} ends in {life(left)}; renewal is late by {life(now - certificate.renew_at)}",
                "see what `hostmesh doctor` says of the CA; journalctl -u hostmesh-agent",
            )
        else:
            yield ok("certificates", f"{certificate.identity} is good for {life(left)}")


def check_drift(patient: Patient) -> Findings:
    """Compare the live rules and routes with what the configuration means."""
    from agent.runtime.host_interception import host_interception

    if os.geteuid() != 0:
        yield warning("drift", "rules can be read by root only", "run hostmesh doctor as root")
        return
    if patient.status is None:
        return  # without an agent there are to be no rules, or those of onProxyFailure
    made = host_interception(patient.config)
    differences = asyncio.run(made.adapter.diff(made.rules.v4, made.rules.v6))
    for line in differences[:10]:
        yield error(
            "drift",
            f"interception differs: {line} ({len(differences)} in all)",
            "the agent repairs it within 5 s; if it comes back, another program (docker, firewalld, ufw) takes it away",
        )
    if not differences:
        yield ok("drift", "rules and routes are as they should be")


def check_disk(patient: Patient) -> Findings:
    """See that the agent can write its state."""
    folder = patient.config.state_dir
    try:
        owner = os.stat(folder)
        space = os.statvfs(folder)
    except OSError as failure:
        raise HostError(f"{folder}: {failure.strerror}") from failure
    free = space.f_bavail * space.f_frsize
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        yield error("disk", f"{folder} is read-only: nothing survives a reboot", f"mount -o remount,rw (of {folder})")
    elif free < 64 * 2**20:
        yield error(
            "disk", f"{folder}: {free // 2**20} MiB are free", "make room: the last known configuration is kept there"
        )
    elif os.geteuid() == 0 and owner.st_uid == 0 and Path("/usr/sbin/hostmesh-agent").exists():
        yield warning("disk", f"{folder} belongs to root, the agent runs as hostmesh", f"chown -R hostmesh: {folder}")
    else:
        yield ok("disk", f"{folder}: {free // 2**20} MiB are free")
