"""The files that let this host into Consul, followed: a rotated token or certificate needs no restart."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Coroutine
from functools import partial

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.registration import Registrar
from agent.adapters.consul.tls_files import watch_tls
from agent.adapters.consul.token_file import watch_token
from agent.mesh.routes import Fault
from agent.runtime.events import FaultsChanged

log = logging.getLogger(__name__)


def credential_parts(
    token_file: str | None, client: ConsulClient, registrar: Registrar, post: Callable[[FaultsChanged], None]
) -> dict[str, Coroutine[None, None, None]]:
    """Return what follows these files for ever, by name; a file that can't be used is a fault while it can't."""

    def tell(setting: str, reason: str | None) -> None:
        post(FaultsChanged(setting, (Fault(setting, reason),) if reason else ()))

    def take_token(token: str) -> None:
        log.warning("Consul's ACL token has been replaced: registering anew with it")
        client.use_token(token)
        registrar.renew()

    def take_tls(context: ssl.SSLContext) -> None:
        log.warning("the certificates for Consul have been replaced: connecting with them from now on")
        client.use_tls(context)

    parts: dict[str, Coroutine[None, None, None]] = {}
    if token_file:
        following = watch_token(token_file, client.address.token, take_token, partial(tell, "consul.tokenFile"))
        parts["consul's token"] = following
    if client.address.ca_file or client.address.client_cert:
        parts["consul's certificates"] = watch_tls(client.address, take_tls, partial(tell, "consul.certFile"))
    return parts
