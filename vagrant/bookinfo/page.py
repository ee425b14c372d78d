"""The HTML of the product page: pure functions from the backends' replies to one self-contained document."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from calling import Reply

TITLE = "The Comedy of Errors"
DESCRIPTION_HTML = (
    '<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Wikipedia</a>: '
    "one of Shakespeare's earliest and shortest plays. Two pairs of identical twins, parted at birth, turn up in the "
    "same town on the same day, and everybody takes everybody for somebody else."
)
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
LABELS = (
    ("author", "Author"),
    ("year", "Year"),
    ("type", "Type"),
    ("pages", "Pages"),
    ("publisher", "Publisher"),
    ("language", "Language"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)
MAX_STARS = 5


def unavailable(name: str) -> str:
    """Return the sentence that stands in for a backend's part."""
    return f"Sorry, product {name} are currently unavailable for this book."


def product(user: str, book: Reply, reviews: Reply, served_by: str) -> str:
    """Return the page of the book; `served_by` is this application's own instance."""
    return _document(
        TITLE,
        f"""{_bar(user)}
<header class="hero"><div class="wrap hero-grid">
  <div class="cover" aria-hidden="true"><span>The<br>Comedy<br>of<br>Errors</span><i>W. Shakespeare</i></div>
  <div><p class="kicker">Book of the day</p><h1>{TITLE}</h1><p class="summary">{DESCRIPTION_HTML}</p></div>
</div></header>
<main class="wrap columns">
<section aria-labelledby="details"><h2 id="details">Book Details</h2>{_details(book)}</section>
<section aria-labelledby="reviews"><h2 id="reviews">Book Reviews</h2>{_reviews(reviews)}</section>
</main>
{_footer(served_by, book, reviews)}""",
    )


def landing(user: str) -> str:
    """Return the front page."""
    return _document(
        "Bookinfo",
        f"""{_bar(user)}
<main class="wrap front">
  <p class="kicker">A bookshop in four small services</p><h1>Hello! This is Bookinfo.</h1>
  <p class="summary">The product page asks <b>details</b> for the facts and <b>reviews</b> for opinions; some versions
  of reviews ask <b>ratings</b> for stars. Reload the page to see which version answers, or sign in as <b>jason</b>.</p>
  <p class="actions"><a class="button" href="/productpage">Open the product page</a>
  <a class="button quiet" href="/api/v1/products">Products as JSON</a></p>
</main>""",
    )


def _document(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Simple Bookstore App</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><style>{STYLE}</style></head>
<body>{body}</body></html>
"""


def _bar(user: str) -> str:
    if user:
        who = f"""<p class="session"><span>Signed in as <b>{escape(user)}</b></span>
<a class="button quiet" href="/logout">Sign out</a></p>"""
    else:
        who = """<form class="session" method="post" action="/login"><label for="username">User name</label>
<input id="username" name="username" required maxlength="100" placeholder="User name" autocomplete="username"
 autocapitalize="none" spellcheck="false"><button class="button">Sign in</button></form>"""
    return f'<nav class="bar"><div class="wrap"><a class="brand" href="/">Bookinfo</a>{who}</div></nav>'


def _details(reply: Reply) -> str:
    if not isinstance(reply.value, dict):
        return _missing(unavailable("details"), reply.status)
    rows = "".join(
        f"<div><dt>{label}</dt><dd>{escape(str(reply.value[key]))}</dd></div>"
        for key, label in LABELS
        if key in reply.value
    )
    return f'<dl class="card facts">{rows}</dl>'


def _reviews(reply: Reply) -> str:
    entries = reply.value.get("reviews") if isinstance(reply.value, dict) else None
    if not isinstance(entries, list):
        return _missing(unavailable("reviews"), reply.status)
    return "".join(_review(entry) for entry in entries if isinstance(entry, dict))


def _review(entry: dict[str, Any]) -> str:
    reviewer = escape(str(entry.get("reviewer", "")))
    return f"""<figure class="card review"><blockquote>{escape(str(entry.get("text", "")))}</blockquote>
<figcaption><span class="initial" aria-hidden="true">{reviewer[:1]}</span><cite>{reviewer}</cite>{_rating(entry)}
</figcaption></figure>"""


def _rating(entry: dict[str, Any]) -> str:
    rating = entry.get("rating")
    if not isinstance(rating, dict):
        return ""
    if "error" in rating:
        return f'<span class="no-rating" role="status">{escape(str(rating["error"]))}</span>'
    count = rating.get("stars")
    stars = max(0, min(MAX_STARS, count)) if isinstance(count, int) else 0
    color = escape(str(rating.get("color", "")))
    kind = "red" if color == "red" else "black"
    words = f"{stars} of {MAX_STARS} {color} stars"
    return (
        f'<span class="stars {kind}" role="img" aria-label="{words}" title="{words}" data-stars="{stars}"'
        f' data-color="{color}">{"★" * stars}<i>{"★" * (MAX_STARS - stars)}</i></span>'
    )


def _missing(sentence: str, status: int) -> str:
    reason = f"It answered {status}." if status else "It could not be reached in time."
    return f'<div class="card missing" role="status"><p><b>{sentence}</b></p><p>{reason}</p></div>'


def _footer(served_by: str, book: Reply, reviews: Reply) -> str:
    value = reviews.value if isinstance(reviews.value, dict) else {}
    answered = (
        ("productpage", served_by),
        ("details", book.served_by if book.value is not None else ""),
        ("reviews", (reviews.served_by or str(value.get("podname", ""))) if value else ""),
    )
    instances = "".join(_instance(*entry) for entry in answered)
    return f'<footer class="wrap"><h2>Who answered</h2><ul>{instances}</ul></footer>'


def _instance(service: str, served_by: str) -> str:
    name, _, version = served_by.partition(" ")
    if not name:
        return f'<li class="down"><span>{service}</span><b>no answer</b></li>'
    badge = f"<em>{escape(version)}</em>" if version else ""
    return f"<li><span>{service}</span><b>{escape(name)}</b>{badge}</li>"
