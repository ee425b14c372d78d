"""The reviews application: what readers wrote, with stars where ratings are on. Run: python reviews.py [PORT]

v1: no stars. v2: ENABLE_RATINGS=true, STAR_COLOR=black. v3: ENABLE_RATINGS=true, STAR_COLOR=red.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from calling import Backend, Reply, forwarded, get_json
from serving import Answer, Application, Request, instance_name, json_answer, run

REVIEWS = (
    ("Reviewer1", "Two pairs of twins, one long day and not a dull page. I laughed out loud on the train."),
    ("Reviewer2", "Quick, silly and warm. The plot leans on luck more than on people, but the ending makes up for it."),
)
UNAVAILABLE = {"error": "Ratings service is currently unavailable"}


@dataclass(frozen=True)
class Stars:
    """Whether and how ratings are shown."""

    color: str
    backend: Backend

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Stars | None:
        """Return how ratings are shown, None where they are off."""
        if environment.get("ENABLE_RATINGS", "").lower() != "true":
            return None
        return cls(environment.get("STAR_COLOR") or "black", Backend.from_environment("ratings", environment))

    @property
    def timeout(self) -> float:
        """Return how long ratings may take, in seconds: the documented fault tasks rest on this difference."""
        return 10.0 if self.color == "black" else 2.5

    def fetch(self, product: str, headers: Mapping[str, str]) -> Reply:
        """Return the reply of ratings."""
        return get_json(self.backend, f"/ratings/{quote(product, safe='')}", headers, self.timeout)

    def rating(self, reply: Reply, reviewer: str) -> dict[str, object]:
        """Return a reviewer's rating as it stands in the answer."""
        ratings = reply.value.get("ratings") if isinstance(reply.value, dict) else None
        stars = ratings.get(reviewer) if isinstance(ratings, dict) else None
        if isinstance(stars, int) and not isinstance(stars, bool):
            return {"stars": stars, "color": self.color}
        return dict(UNAVAILABLE)


def reviews(request: Request, stars: Stars | None, cluster: str) -> Answer:
    """GET /reviews/ID; one call to ratings serves both reviewers."""
    product = request.parameters[0]
    entries: list[dict[str, object]] = [{"reviewer": reviewer, "text": text} for reviewer, text in REVIEWS]
    if stars:
        reply = stars.fetch(product, forwarded(request.headers))
        for entry in entries:
            entry["rating"] = stars.rating(reply, str(entry["reviewer"]))
    return json_answer({"id": product, "podname": instance_name(), "clustername": cluster, "reviews": entries})


def version_of(stars: Stars | None) -> str:
    """Return the version that the settings amount to."""
    if stars is None:
        return "v1"
    return "v2" if stars.color == "black" else "v3"


def application(environment: Mapping[str, str]) -> Application:
    """Return the application as the environment configures it."""
    stars = Stars.from_environment(environment)
    cluster = environment.get("CLUSTER_NAME", "")
    app = Application("reviews", environment.get("SERVICE_VERSION") or version_of(stars))
    app.route("GET", r"/health", lambda _: json_answer({"status": "Reviews is healthy"}))
    app.route("GET", r"/reviews/([^/]+)", lambda request: reviews(request, stars, cluster))
    return app


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:])
