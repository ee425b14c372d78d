"""The product page's HTML and the identity it sends on."""

from __future__ import annotations

import page
import productpage
import pytest
from calling import Backend, Reply, forwarded
from serving import Request

BOOK = Reply(200, {"id": 0, "author": "A. & B.", "year": 1595}, "details v1")


def reviews(rating: dict[str, object] | None) -> Reply:
    entry: dict[str, object] = {"reviewer": "Reviewer1", "text": "<script>alert(1)</script>"}
    if rating is not None:
        entry["rating"] = rating
    return Reply(200, {"id": "0", "podname": "reviews-v2", "reviews": [entry]}, "reviews-v2 v2")


def test_page_shows_book_reviews_stars_and_who_answered() -> None:
    html = page.product("", BOOK, reviews({"stars": 4, "color": "red"}), "productpage v1")
    assert "A. &amp; B." in html
    assert 'aria-label="4 of 5 red stars"' in html
    assert 'data-stars="4" data-color="red"' in html
    assert "<b>reviews-v2</b><em>v2</em>" in html
    assert 'action="/login"' in html


def test_page_is_one_self_contained_document_and_escapes_what_backends_and_users_say() -> None:
    html = page.product("<i>eve</i>", BOOK, reviews(None), "productpage v1")
    assert "<script" not in html
    assert "&lt;i&gt;eve&lt;/i&gt;" in html
    assert "src=" not in html
    assert "@import" not in html
    assert html.count('rel="icon" href="data:,"') == html.count("<link ") == 1


@pytest.mark.parametrize("value", [None, [], {}, {"reviews": None}, {"reviews": 3}])
def test_page_says_sorry_for_a_reply_that_is_none(value: object) -> None:
    html = page.product("jason", Reply(0), Reply(500, value), "productpage v1")
    assert "Sorry, product details are currently unavailable for this book." in html
    assert "Sorry, product reviews are currently unavailable for this book." in html
    assert "Signed in as <b>jason</b>" in html


def test_page_shows_the_ratings_error_and_no_stars() -> None:
    html = page.product("", BOOK, reviews({"error": "Ratings service is currently unavailable"}), "productpage v1")
    assert "Ratings service is currently unavailable" in html
    assert "★" not in html


@pytest.mark.parametrize("stars", [-1, 9, "many", None])
def test_page_survives_senseless_stars(stars: object) -> None:
    assert "★★★★★" in page.product("", BOOK, reviews({"stars": stars, "color": "red"}), "p").replace("<i>", "")


def test_user_cookie_goes_first_and_end_user_is_set() -> None:
    outgoing = productpage.outgoing_headers({"cookie": 'odd={"a":1}; user=jason; theme=dark', "host": "x"})
    assert outgoing == {"cookie": 'user=jason; odd={"a":1}; theme=dark', "end-user": "jason"}


def test_without_a_user_headers_go_along_unchanged() -> None:
    headers = {"cookie": "theme=dark", "x-request-id": "1", "x-b3-traceid": "2", "accept": "x"}
    assert productpage.outgoing_headers(headers) == forwarded(headers)
    assert forwarded(headers) == {"cookie": "theme=dark", "x-request-id": "1", "x-b3-traceid": "2"}


@pytest.mark.parametrize(
    ("body", "query", "cookie"),
    [
        (b"username=jason", {}, "user=jason;"),
        (b"", {"username": ["jason"]}, "user=jason;"),
        (b"username=a%3B%20b%0d%0ac", {}, "user=a%3B%20b%0D%0Ac;"),
        (b"", {}, "user=; Max-Age=0;"),
    ],
)
def test_sign_in_sets_the_cookie_and_returns_to_the_referer(
    body: bytes, query: dict[str, list[str]], cookie: str
) -> None:
    request = Request("POST", "/login", query, {"referer": "http://localhost/productpage"}, body)
    answer = productpage.sign_in(request)
    assert answer.status == 302
    headers = dict(answer.headers)
    assert headers["Location"] == "http://localhost/productpage"
    assert headers["Set-Cookie"].startswith(cookie)
    assert productpage.user_of({"cookie": "user=a%3B%20b"}) == "a; b"


def test_backend_address_comes_from_the_environment() -> None:
    assert Backend.from_environment("details", {}) == Backend("details", 9080)
    environment = {"DETAILS_HOSTNAME": "d", "SERVICES_DOMAIN": "shop.example", "DETAILS_SERVICE_PORT": "80"}
    assert Backend.from_environment("details", environment) == Backend("d.shop.example", 80)
