"""httpbin: answers that show the request, and answers that are asked for. Run: python httpbin.py [PORT]

The paths of the well-known httpbin that the tasks use. TLS_CERTIFICATE and TLS_KEY (PEM files; relative ones are in
STATE_DIRECTORY) make it an HTTPS server.
Writes an access log, with the Host header: mirrored requests are told by it.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import websocket
from serving import Answer, Application, Request, run, text_answer

MAX_DELAY_SECONDS = 10.0
MAX_REDIRECTS = 20
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORM = "application/x-www-form-urlencoded"


def json_answer(value: Any, status: int = HTTPStatus.OK) -> Answer:
    """Return the value as JSON for people."""
    return Answer(json.dumps(value, indent=2).encode() + b"\n", status)


def seen(request: Request) -> dict[str, Any]:
    """Return what every answer about a request shows."""
    query = urlencode(request.query, doseq=True)
    host, scheme = request.headers.get("host", ""), request.headers.get("x-forwarded-proto", "http")
    return {
        "args": single(request.query),
        "headers": {name.title(): value for name, value in request.headers.items()},
        "origin": origin(request),
        "url": f"{scheme}://{host}{request.path}{'?' if query else ''}{query}",
    }


def seen_whole(request: Request) -> dict[str, Any]:
    """Return that and the body: as text, as form fields, as JSON."""
    text = request.body.decode("utf-8", "replace")
    is_form = request.headers.get("content-type", "").startswith(FORM)
    try:
        value = json.loads(text) if text and not is_form else None
    except ValueError:
        value = None
    return {
        **seen(request),
        "method": request.method,
        "data": "" if is_form else text,
        "form": single(parse_qs(text)) if is_form else {},
        "json": value,
    }


def single(fields: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the fields with lists only where one was given several times."""
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def origin(request: Request) -> str:
    """Return where the request came from, as far as the proxies before say it."""
    return request.headers.get("x-forwarded-for", "127.0.0.1")


def status(request: Request) -> Answer:
    """Any method on /status/CODE."""
    code = int(request.parameters[0])
    if not 200 <= code <= 599:
        return json_answer({"error": "a status is a number from 200 to 599"}, HTTPStatus.BAD_REQUEST)
    headers = (("Location", "/redirect/1"),) if code in (301, 302, 303, 307, 308) else ()
    return Answer(b"", code, "text/html; charset=utf-8", headers)


def delayed(sleep: Callable[[float], None]) -> Callable[[Request], Answer]:
    """Any method on /delay/SECONDS: answers as /anything does, that much later (10 s at most)."""

    def answer(request: Request) -> Answer:
        sleep(min(float(request.parameters[0]), MAX_DELAY_SECONDS))
        return json_answer(seen_whole(request))

    return answer


def redirected(request: Request) -> Answer:
    """GET /redirect/N: so many redirects, then /get."""
    left = min(int(request.parameters[0]), MAX_REDIRECTS)
    return Answer(b"", HTTPStatus.FOUND, headers=(("Location", f"/redirect/{left - 1}" if left > 1 else "/get"),))


def redirected_to(request: Request) -> Answer:
    """Any method on /redirect-to?url=URL[&status_code=CODE]."""
    url, code = (request.query.get(name, [""])[0] for name in ("url", "status_code"))
    if not url or any(ord(letter) < 0x21 for letter in url) or code not in ("", "301", "302", "303", "307", "308"):
        return json_answer({"error": "give url=, and status_code= one of a redirect"}, HTTPStatus.BAD_REQUEST)
    return Answer(b"", int(code or HTTPStatus.FOUND), headers=(("Location", url),))


def cookies(request: Request) -> Answer:
    """GET /cookies: those of the request."""
    pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
    return json_answer({"cookies": {name: value for name, _, value in pairs if name}})


def application(environment: Mapping[str, str], sleep: Callable[[float], None] = time.sleep) -> Application:
    """Return the application as the environment configures it."""
    app = Application("httpbin", environment.get("SERVICE_VERSION", "v1"), access_log=True)
    app.route("GET", r"/(?:health)?", lambda _: text_answer("httpbin is healthy\n"))
    app.route("GET", r"/get", lambda request: json_answer(seen(request)))
    app.route("GET", r"/headers", lambda request: json_answer({"headers": seen(request)["headers"]}))
    app.route("GET", r"/ip", lambda request: json_answer({"origin": origin(request)}))
    app.route("GET", r"/user-agent", lambda request: json_answer({"user-agent": request.headers.get("user-agent", "")}))
    app.route("GET", r"/cookies", cookies)
    app.route("GET", r"/redirect/([0-9]{1,2})", redirected)
    app.route("GET", r"/websocket", websocket.echo)
    for method in METHODS[1:]:
        app.route(method, f"/{method.lower()}", lambda request: json_answer(seen_whole(request)))
    for method in METHODS:
        app.route(method, r"/anything(?:/.*)?", lambda request: json_answer(seen_whole(request)))
        app.route(method, r"/status/([0-9]{3})", status)
        app.route(method, r"/delay/([0-9]{1,3}(?:\.[0-9]{1,3})?)", delayed(sleep))
        app.route(method, r"/redirect-to", redirected_to)
    return app


def tls_context(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return how TLS is spoken, None for plain HTTP."""
    certificate, key = environment.get("TLS_CERTIFICATE"), environment.get("TLS_KEY")
    if not certificate or not key:
        return None
    folder = Path(environment.get("STATE_DIRECTORY", ""))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / certificate, folder / key)
    return context


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:], tls_context(os.environ))
