"""The product page: puts details and reviews together for the browser. Run: python productpage.py [PORT]

Signing in sets the cookie `user=NAME`, which goes along to every backend together with the header `end-user: NAME`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, quote, unquote

import page
from calling import Backend, Reply, forwarded, get_json
from serving import Answer, Application, Request, instance_name, json_answer, redirect, run, text_answer

TIMEOUT_SECONDS = 3.0
ATTEMPTS = {"details": 1, "reviews": 2, "ratings": 1}
PRODUCT = {"id": 0, "title": page.TITLE, "descriptionHtml": page.DESCRIPTION_HTML}
HTML = "text/html; charset=utf-8"
COOKIE_ATTRIBUTES = "Path=/; HttpOnly; SameSite=Lax"


class ProductPage:
    """The handlers, with the addresses of the backends and the count of their answers."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.backends = {name: Backend.from_environment(name, environment) for name in ATTEMPTS}
        self.flood = int(environment.get("FLOOD_FACTOR") or "0")
        self.version = environment.get("SERVICE_VERSION", "v1")
        self._results: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def front(self, request: Request) -> Answer:
        """GET / and /index.html."""
        return text_answer(page.landing(user_of(request.headers)), HTML)

    def product(self, request: Request) -> Answer:
        """GET /productpage: always 200; a backend that fails leaves its sentence in its place."""
        headers = outgoing_headers(request.headers)
        book = self.fetch("details", 0, headers)
        self._flood_reviews(headers)
        reviews = self.fetch("reviews", 0, headers)
        served_by = " ".join((instance_name(), self.version))
        return text_answer(page.product(user_of(request.headers), book, reviews, served_by), HTML)

    def products(self, _: Request) -> Answer:
        """GET /api/v1/products."""
        return json_answer([PRODUCT])

    def passed_on(self, name: str, request: Request) -> Answer:
        """GET /api/v1/products/ID[/reviews|/ratings]: the backend's document, or its status and our sentence."""
        reply = self.fetch(name, int(request.parameters[0]), outgoing_headers(request.headers))
        if reply.value is not None:
            return json_answer(reply.value)
        return json_answer({"error": page.unavailable(name)}, reply.status or 500)

    def fetch(self, name: str, product: int, headers: Mapping[str, str]) -> Reply:
        """Return the last attempt's reply; there is no pause between attempts."""
        reply = Reply(0)
        for _ in range(ATTEMPTS[name]):
            reply = get_json(self.backends[name], f"/{name}/{product}", headers, TIMEOUT_SECONDS)
            with self._lock:
                self._results[name, reply.status or 500] += 1
            if reply.value is not None:
                break
        return reply

    def metrics(self, _: Request) -> Answer:
        """GET /metrics in Prometheus' text format."""
        lines = ["# HELP request_result_total Results of requests", "# TYPE request_result_total counter"]
        with self._lock:
            results = sorted(self._results.items())
        for (name, status), count in results:
            lines.append(f'request_result_total{{destination_app="{name}",response_code="{status}"}} {count}.0')
        return text_answer("\n".join(lines) + "\n", "text/plain; version=0.0.4; charset=utf-8")

    def _flood_reviews(self, headers: Mapping[str, str]) -> None:
        """Make FLOOD_FACTOR extra calls of reviews at once, whose replies nobody reads."""
        if self.flood > 0:
            with ThreadPoolExecutor(min(self.flood, 100)) as pool:
                for _ in range(self.flood):
                    pool.submit(get_json, self.backends["reviews"], "/reviews/0", headers, TIMEOUT_SECONDS)


def cookies_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the cookies of a request, undecoded (split by hand: one odd cookie must not cost the others)."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in pairs if name}


def user_of(headers: Mapping[str, str]) -> str:
    """Return who is signed in, "" for nobody."""
    return unquote(cookies_of(headers).get("user", ""))


def outgoing_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what goes along to the backends: the request's own headers and who is signed in.

    The user's cookie stands first, without a space before it: the rules' usual expression `^(.*?;)?(user=…)` asks so.
    """
    outgoing = forwarded(headers)
    cookies = cookies_of(headers)
    user = cookies.pop("user", "")
    if user:
        outgoing["cookie"] = "; ".join(f"{name}={value}" for name, value in {"user": user, **cookies}.items())
        outgoing["end-user"] = user
    return outgoing


def sign_in(request: Request) -> Answer:
    """POST /login with a form field or query parameter `username`."""
    form = parse_qs(request.body.decode("utf-8", "replace"))
    name = (form.get("username") or request.query.get("username") or [""])[0].strip()[:100]
    cookie = f"user={quote(name, safe='')}; {COOKIE_ATTRIBUTES}" if name else f"user=; Max-Age=0; {COOKIE_ATTRIBUTES}"
    return redirect(request.headers.get("referer", "/productpage"), ("Set-Cookie", cookie))


def sign_out(request: Request) -> Answer:
    """GET /logout."""
    cookie = ("Set-Cookie", f"user=; Max-Age=0; {COOKIE_ATTRIBUTES}")
    return redirect(request.headers.get("referer", "/productpage"), cookie)


def application(environment: Mapping[str, str]) -> Application:
    """Return the application as the environment configures it."""
    pages = ProductPage(environment)
    product = r"/api/v1/products/([0-9]{1,15})"
    app = Application("productpage", pages.version)
    app.route("GET", r"/health", lambda _: text_answer("Product page is healthy"))
    app.route("GET", r"/(?:index\.html)?", pages.front)
    app.route("GET", r"/productpage", pages.product)
    app.route("POST", r"/login", sign_in)
    app.route("GET", r"/logout", sign_out)
    app.route("GET", r"/metrics", pages.metrics)
    app.route("GET", r"/api/v1/products", pages.products)
    app.route("GET", product, lambda request: pages.passed_on("details", request))
    app.route("GET", product + r"/reviews", lambda request: pages.passed_on("reviews", request))
    app.route("GET", product + r"/ratings", lambda request: pages.passed_on("ratings", request))
    return app


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:])
