"""The ratings application: the stars that each reviewer gave. Run: python ratings.py [PORT]

SERVICE_VERSION picks the fault variants v-faulty, v-delayed, v-unavailable and v-unhealthy. DB_TYPE=mysql (version v2)
reads the stars from a database.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ratings_database import Database, DatabaseError
from serving import Answer, Application, Request, json_answer, run

RATINGS = {"Reviewer1": 5, "Reviewer2": 4}
DELAY_SECONDS = 7.0
TOGGLE_SECONDS = {"v-unavailable": 60.0, "v-unhealthy": 900.0}


@dataclass(frozen=True)
class Faults:
    """The faults a variant injects into itself; chance (0 to 1) and clock (seconds since the start) are passed in."""

    version: str
    chance: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    @property
    def unavailable(self) -> bool:
        """Tell whether this request is to be refused."""
        if self.version == "v-faulty":
            return self.chance() < 0.5
        return self._off_period

    @property
    def unhealthy(self) -> bool:
        """Tell whether the health check is to fail now."""
        return self.version == "v-unhealthy" and self._off_period

    @property
    def delay(self) -> float:
        """Return how many seconds this request is to wait."""
        return DELAY_SECONDS if self.version == "v-delayed" and self.chance() < 0.5 else 0.0

    @property
    def _off_period(self) -> bool:
        period = TOGGLE_SECONDS.get(self.version)
        return period is not None and int(self.clock() / period) % 2 == 1


@dataclass
class Ratings:
    """The ratings of each product: fixed ones, until somebody posts others."""

    faults: Faults
    posted: dict[int, object] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep

    def health(self, _: Request) -> Answer:
        """GET /health."""
        if self.faults.unhealthy:
            return json_answer({"status": "Ratings is not healthy"}, 500)
        return json_answer({"status": "Ratings is healthy"})

    def show(self, request: Request) -> Answer:
        """GET /ratings/ID."""
        product = numeric(request.parameters[0])
        if product is None:
            return json_answer({"error": "please provide numeric product ID"}, 400)
        if self.faults.unavailable:
            return json_answer({"error": "Service unavailable"}, 503)
        self.sleep(self.faults.delay)
        return json_answer({"id": product, "ratings": self.posted.get(product, RATINGS)})

    def store(self, request: Request) -> Answer:
        """POST /ratings/ID with a JSON object: these are the product's ratings from now on."""
        product = numeric(request.parameters[0])
        if product is None:
            return json_answer({"error": "please provide numeric product ID"}, 400)
        try:
            value = json.loads(request.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            return json_answer({"error": "please provide valid ratings JSON"}, 400)
        self.posted[product] = value
        return json_answer({"id": product, "ratings": value})


@dataclass(frozen=True)
class StoredRatings:
    """The ratings as a database has them, the same for each product."""

    database: Database

    def show(self, request: Request) -> Answer:
        """GET /ratings/ID."""
        product = numeric(request.parameters[0])
        if product is None:
            return json_answer({"error": "please provide numeric product ID"}, 400)
        try:
            return json_answer({"id": product, "ratings": self.database.ratings()})
        except DatabaseError as error:
            sys.stderr.write(f"ratings: database: {error}\n")
            return json_answer({"error": "could not connect to ratings database"}, 500)

    def store(self, _: Request) -> Answer:
        """POST /ratings/ID."""
        return json_answer({"error": "Post not implemented for database backed ratings"}, 501)


def numeric(text: str) -> int | None:
    """Return the product number in the text, None if it is no number."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def application(environment: Mapping[str, str]) -> Application:
    """Return the application as the environment configures it."""
    version = environment.get("SERVICE_VERSION", "v1")
    kind = environment.get("DB_TYPE", "")
    if kind not in ("", "mysql") or (version == "v2" and not kind):
        sys.exit(f"ratings: DB_TYPE={kind}: version v2 reads a database, and mysql is the only type there is")
    started = time.monotonic()
    ratings = Ratings(Faults(version, clock=lambda: time.monotonic() - started))
    shown = StoredRatings(Database.from_environment(environment)) if kind else ratings
    app = Application("ratings", version)
    app.route("GET", r"/health", ratings.health)
    app.route("GET", r"/ratings/([^/]*)", shown.show)
    app.route("POST", r"/ratings/([^/]*)", shown.store)
    return app


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:])
