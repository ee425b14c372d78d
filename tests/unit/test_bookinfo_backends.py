"""Details, reviews and ratings: their documents, variants and error answers."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import details
import pytest
import ratings
import reviews
from calling import Backend, Reply
from serving import Answer, Application, Request


def get(app: Application, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, Any]:
    answer: Answer = app.answer(Request(method, path, {}, {}, body))
    return answer.status, json.loads(answer.body)


def test_details_echo_the_number() -> None:
    status, book = get(details.application({}), "/details/7")
    assert (status, book["id"], book["ISBN-13"]) == (200, 7, "123-1234567890")


@pytest.mark.parametrize("path", ["/details/x", "/details/7/x", "/details/", "/details/-1"])
def test_details_want_a_number(path: str) -> None:
    assert get(details.application({}), path) == (400, {"error": "please provide numeric product id"})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"ENABLE_EXTERNAL_BOOK_SERVICE": "true"}, details.BookService(443, True)),
        ({"ENABLE_EXTERNAL_BOOK_SERVICE": "true", "DO_NOT_ENCRYPT": "true"}, details.BookService(80, False)),
        ({"ENABLE_EXTERNAL_BOOK_SERVICE": "true", "WITH_ISTIO": "true"}, details.BookService(443, False)),
    ],
)
def test_external_book_service_by_environment(
    environment: dict[str, str], expected: details.BookService | None
) -> None:
    assert details.BookService.from_environment(environment) == expected


def test_external_book_document() -> None:
    volume = {
        "authors": ["W. S."],
        "publishedDate": "2002",
        "printType": "BOOK",
        "pageCount": 64,
        "publisher": "P",
        "language": "en",
        "industryIdentifiers": [{"type": "ISBN_10", "identifier": "1"}],
    }
    book = details.book_from_volumes(3, {"items": [{"volumeInfo": volume}]})
    assert (book["id"], book["type"], book["language"], book["ISBN-10"], book["ISBN-13"]) == (
        3,
        "paperback",
        "English",
        "1",
        None,
    )
    with pytest.raises(ValueError, match="no"):
        details.book_from_volumes(3, {"items": []})


def test_reviews_v1_have_no_ratings() -> None:
    status, document = get(reviews.application({}), "/reviews/0")
    assert status == 200
    assert document["id"] == "0"
    assert [set(entry) for entry in document["reviews"]] == [{"reviewer", "text"}] * 2


@pytest.mark.parametrize(("color", "timeout", "version"), [("black", 10.0, "v2"), ("red", 2.5, "v3"), ("", 10.0, "v2")])
def test_ratings_timeout_follows_the_color(color: str, timeout: float, version: str) -> None:
    stars = reviews.Stars.from_environment({"ENABLE_RATINGS": "true", "STAR_COLOR": color})
    assert stars is not None
    assert (stars.timeout, reviews.version_of(stars)) == (timeout, version)


@pytest.mark.parametrize("value", [None, [], {"ratings": 3}, {"ratings": {}}, {"ratings": {"Reviewer1": "five"}}])
def test_a_missing_rating_is_an_error_of_that_review(value: object) -> None:
    stars = reviews.Stars("red", Backend("ratings", 9080))
    assert stars.rating(Reply(200, value), "Reviewer1") == {"error": "Ratings service is currently unavailable"}
    assert stars.rating(Reply(200, {"ratings": {"Reviewer1": 5}}), "Reviewer1") == {"stars": 5, "color": "red"}


def test_ratings_are_shown_and_replaced() -> None:
    app = ratings.application({})
    assert get(app, "/ratings/0") == (200, {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})
    assert get(app, "/ratings/0", "POST", b'{"Reviewer1": 1}') == (200, {"id": 0, "ratings": {"Reviewer1": 1}})
    assert get(app, "/ratings/0")[1]["ratings"] == {"Reviewer1": 1}
    assert get(app, "/ratings/1")[1]["ratings"] == {"Reviewer1": 5, "Reviewer2": 4}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/ratings/x", b"", 400),
        ("POST", "/ratings/x", b"{}", 400),
        ("POST", "/ratings/1", b"{", 400),
        ("POST", "/ratings/1", b"[]", 400),
        ("POST", "/ratings/1", b"\xff", 400),
        ("DELETE", "/ratings/1", b"", 405),
        ("GET", "/other", b"", 404),
    ],
)
def test_ratings_refuse(method: str, path: str, body: bytes, status: int) -> None:
    answered, document = get(ratings.application({}), path, method, body)
    assert answered == status
    assert "error" in document


def test_fault_variants() -> None:
    luck, bad_luck = (lambda: 0.9), (lambda: 0.1)
    assert ratings.Faults("v-faulty", chance=bad_luck).unavailable
    assert not ratings.Faults("v-faulty", chance=luck).unavailable
    assert ratings.Faults("v-delayed", chance=bad_luck).delay == 7.0
    assert ratings.Faults("v-delayed", chance=luck).delay == 0.0
    seconds = {"v-unavailable": 60.0, "v-unhealthy": 900.0}
    for version, period in seconds.items():
        for now, off in ((0.0, False), (period + 1, True), (2 * period + 1, False)):
            faults = ratings.Faults(version, clock=partial(float, now))
            assert faults.unavailable is off
            assert faults.unhealthy is (off and version == "v-unhealthy")


def test_unavailable_and_unhealthy_answers() -> None:
    app = ratings.Ratings(ratings.Faults("v-unhealthy", clock=lambda: 901.0))
    request = Request("GET", "/ratings/0", {}, {}, parameters=("0",))
    assert app.show(request).status == 503
    assert app.health(request).status == 500


@pytest.mark.parametrize("environment", [{"SERVICE_VERSION": "v2"}, {"SERVICE_VERSION": "v2", "DB_TYPE": "mongodb"}])
def test_ratings_v2_wants_a_database_that_it_can_read(environment: dict[str, str]) -> None:
    with pytest.raises(SystemExit, match="mysql is the only type"):
        ratings.application(environment)


def test_ratings_from_a_database_that_is_not_there_is_an_answer() -> None:
    app = ratings.application({"DB_TYPE": "mysql", "MYSQL_DB_HOST": "127.0.0.1", "MYSQL_DB_PORT": "1"})
    assert get(app, "/ratings/0") == (500, {"error": "could not connect to ratings database"})
    assert get(app, "/ratings/x")[0] == 400
    assert get(app, "/ratings/0", "POST", b"{}")[0] == 501
    assert get(app, "/health")[0] == 200
