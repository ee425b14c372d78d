"""The details application: the facts about a book. Run: python details.py [PORT]

ENABLE_EXTERNAL_BOOK_SERVICE=true (version v2) asks an outside book service instead.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calling import forwarded
from serving import Answer, Application, Request, json_answer, run

BOOKS_HOST = "www.googleapis.com"
BOOKS_PATH = "/books/v1/volumes?q=isbn:0486424618"
BOOKS_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class BookService:
    """How to reach the outside book service."""

    port: int
    encrypted: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> BookService | None:
        """Return the outside service the environment asks for, None for the built-in facts.

        DO_NOT_ENCRYPT=true: plain HTTP on port 80. WITH_ISTIO=true (0.8): plain HTTP on port 443, a proxy adds TLS.
        """
        if environment.get("ENABLE_EXTERNAL_BOOK_SERVICE") != "true":
            return None
        if environment.get("DO_NOT_ENCRYPT") == "true":
            return cls(80, encrypted=False)
        return cls(443, encrypted=environment.get("WITH_ISTIO") != "true")

    def fetch(self, headers: Mapping[str, str]) -> Any:
        """Return the service's JSON document; raises OSError, HTTPException or ValueError."""
        kind = http.client.HTTPSConnection if self.encrypted else http.client.HTTPConnection
        connection = kind(BOOKS_HOST, self.port, timeout=BOOKS_TIMEOUT_SECONDS)
        try:
            connection.request("GET", BOOKS_PATH, headers={**headers, "Host": BOOKS_HOST, "Connection": "close"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ValueError(f"the book service answered {response.status}")
            return json.loads(response.read())
        finally:
            connection.close()


def built_in_book(product: int) -> dict[str, object]:
    """Return the facts about the one book there is."""
    return {
        "id": product,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }


def book_from_volumes(product: int, volumes: Any) -> dict[str, object]:
    """Return the same facts from the outside service's document; raises ValueError if it isn't one."""
    try:
        volume = volumes["items"][0]["volumeInfo"]
        numbers = {entry["type"]: entry["identifier"] for entry in volume["industryIdentifiers"]}
        return {
            "id": product,
            "author": volume["authors"][0],
            "year": volume["publishedDate"],
            "type": "paperback" if volume["printType"] == "BOOK" else "unknown",
            "pages": volume["pageCount"],
            "publisher": volume["publisher"],
            "language": "English" if volume["language"] == "en" else "unknown",
            "ISBN-10": numbers.get("ISBN_10"),
            "ISBN-13": numbers.get("ISBN_13"),
        }
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the book service's document has no {error}") from error


def details(request: Request, service: BookService | None) -> Answer:
    """GET /details/ID."""
    if not re.fullmatch(r"[0-9]{1,15}", request.parameters[0]):
        return json_answer({"error": "please provide numeric product id"}, 400)
    product = int(request.parameters[0])
    if service is None:
        return json_answer(built_in_book(product))
    try:
        return json_answer(book_from_volumes(product, service.fetch(forwarded(request.headers))))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return json_answer({"error": f"the external book service failed: {error}"}, 500)


def application(environment: Mapping[str, str]) -> Application:
    """Return the application as the environment configures it."""
    service = BookService.from_environment(environment)
    app = Application("details", environment.get("SERVICE_VERSION") or ("v2" if service else "v1"))
    app.route("GET", r"/health", lambda _: json_answer({"status": "Details is healthy"}))
    app.route("GET", r"/details/(?:.*/)?([^/]*)", lambda request: details(request, service))
    return app


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:])
