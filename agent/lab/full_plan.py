"""The lab of `make lab`: Bookinfo and the other hosts of docs/tasks. Pure data; starts nothing."""

from __future__ import annotations

import msgspec

from agent.lab.monitoring import GRAPH_PORT, PROMETHEUS_PORT, with_monitoring
from agent.lab.plan import CHECKOUT, DEFAULT_NAME, App, HostPlan, LabPlan, bookinfo_app, bookinfo_plan, python_app
from agent.lab.tracing import ZIPKIN_PORT, with_collector

_VAGRANT = CHECKOUT / "vagrant"
_HTTPBIN = _VAGRANT / "httpbin" / "httpbin.py"
_TCP_ECHO = _VAGRANT / "httpbin" / "tcp_echo.py"
_SHARED = {"PYTHONPATH": str(_VAGRANT / "bookinfo")}
"""Where the modules are that all of the lab's applications import."""
_EGRESS = {"role": "gateway", "labels": {"istio": "egressgateway"}}
HTTP_NAME, HTTPS_NAME, TCP_NAME = "httpbin.org", "www.google.com", "tcp.example.com"
"""What the outside is called; the lab's hosts reach no Internet, so nobody takes it for the real ones."""


def lab_plan(
    page_port: int = 9081,
    consul_port: int = 9500,
    gateway_port: int = 9082,
    gateway_tls_port: int = 9443,
    name: str = DEFAULT_NAME,
    prometheus_port: int = PROMETHEUS_PORT,
    graph_port: int = GRAPH_PORT,
    zipkin_port: int = ZIPKIN_PORT,
) -> LabPlan:
    """Return the whole lab; ports are those of the machine's loopback."""
    bookinfo = with_monitoring(bookinfo_plan(page_port, consul_port, name), prometheus_port, graph_port)
    bookinfo = with_collector(bookinfo, zipkin_port)
    return msgspec.structs.replace(
        bookinfo,
        hosts=(
            *bookinfo.hosts,
            HostPlan("ratings-v2", (_ratings_v2(),)),
            HostPlan("mysql", (_mysqldb(),)),
            HostPlan("httpbin", (_httpbin("v1"), _tcp_echo("v1", "one"))),
            HostPlan("httpbin-v2", (_httpbin("v2"), _tcp_echo("v2", "two"))),
            HostPlan("sleep", (_sleep(),)),
            HostPlan("gateway", settings={"role": "gateway"}),
            HostPlan("egress", (_exit(80, "http"), _exit(443, "tls")), settings=_EGRESS),
            _outside(),
        ),
        gateway_host="gateway",
        gateway_port=gateway_port,
        gateway_tls_port=gateway_tls_port,
    )


def _ratings_v2() -> App:
    database = {
        "DB_TYPE": "mysql",
        "MYSQL_DB_HOST": "mysqldb",
        "MYSQL_DB_USER": "root",
        "MYSQL_DB_PASSWORD": "password",
    }
    app = bookinfo_app("ratings", "v2-mysql", database)
    return msgspec.structs.replace(app, programs=("mariadb",))


def _mysqldb() -> App:
    return App(
        "mysqldb",
        ("sh", str(_VAGRANT / "mysql" / "mysqldb.sh"), "3306"),
        port=3306,
        protocol="mysql",
        service_account="bookinfo-mysqldb",
        labels={"app": "mysqldb", "version": "v1"},
        health_path="",
        programs=("mariadbd", "mariadb-install-db"),
    )


def _httpbin(version: str) -> App:
    return App(
        "httpbin",
        python_app(_HTTPBIN, 8000),
        port=8000,
        service_account="httpbin",
        labels={"app": "httpbin", "version": version},
        environment={**_SHARED, "SERVICE_VERSION": version},
    )


def _tcp_echo(version: str, word: str) -> App:
    return App(
        "tcp-echo",
        (*python_app(_TCP_ECHO, 9000), word),
        port=9000,
        protocol="tcp",
        service_account="tcp-echo",
        labels={"app": "tcp-echo", "version": version},
        health_path="",
    )


def _sleep() -> App:
    return App(
        "sleep",
        python_app(_VAGRANT / "sleep" / "sleep.py", 80),
        port=80,
        service_account="sleep",
        labels={"app": "sleep"},
        environment=_SHARED,
    )


def _exit(port: int, protocol: str) -> App:
    """Return a port of the egress gateway: a service for callers, which its Envoy serves once a Gateway says so."""
    name, namespace = "istio-egressgateway", "istio-system"
    return App(name, (), port, protocol, namespace, service_account=name, health_path="")


def _outside() -> HostPlan:
    """The world outside of the mesh: a web server, one with TLS and one that speaks neither, and the DNS for them."""
    files = {"TLS_CERTIFICATE": f"{HTTPS_NAME}.crt", "TLS_KEY": f"{HTTPS_NAME}.key"}
    return HostPlan(
        "outside",
        (
            App(HTTP_NAME, python_app(_HTTPBIN, 80), port=80, environment=_SHARED),
            App(HTTPS_NAME, python_app(_HTTPBIN, 443), port=443, environment={**_SHARED, **files}, health_path=""),
            App(TCP_NAME, python_app(_TCP_ECHO, 9000), port=9000, health_path=""),
        ),
        agent=False,
        consul=False,
        names=(HTTP_NAME, HTTPS_NAME, TCP_NAME),
    )
