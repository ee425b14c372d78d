"""httpbin: what its answers show, and the echo of its websocket."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import httpbin
import pytest
from serving import Answer, Request

SLEPT: list[float] = []
APP = httpbin.application({}, SLEPT.append)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def ask(method: str, path: str, body: bytes = b"", query: dict[str, list[str]] | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return APP.answer(Request(method, path, query or {}, named, body))


def document(answer: Answer) -> Any:
    assert answer.status == 200
    return json.loads(answer.body)


def test_get_shows_the_request() -> None:
    shown = document(ask("GET", "/get", query={"a": ["1"], "b": ["2", "3"]}, host="httpbin:8000", x_a="b"))
    assert shown["args"] == {"a": "1", "b": ["2", "3"]}
    assert shown["headers"] == {"Host": "httpbin:8000", "X-A": "b"}
    assert shown["url"] == "http://httpbin:8000/get?a=1&b=2&b=3"
    assert document(ask("GET", "/ip")) == {"origin": "127.0.0.1"}
    assert document(ask("GET", "/cookies", cookie="user=jason; x=y")) == {"cookies": {"user": "jason", "x": "y"}}


def test_bodies_are_shown_as_text_form_and_json() -> None:
    assert document(ask("POST", "/post", b'{"a": 1}'))["json"] == {"a": 1}
    form = document(ask("PUT", "/anything/x", b"a=1&b=2", content_type="application/x-www-form-urlencoded"))
    assert (form["form"], form["data"], form["method"]) == ({"a": "1", "b": "2"}, "", "PUT")
    assert document(ask("PATCH", "/patch", b"\xff"))["data"] == "\ufffd"
    assert ask("POST", "/get").status == 405


@pytest.mark.parametrize(("path", "code"), [("/status/418", 418), ("/status/204", 204), ("/status/100", 400)])
def test_statuses(path: str, code: int) -> None:
    assert ask("DELETE", path).status == code


def test_delays_are_bounded() -> None:
    SLEPT.clear()
    for path in ("/delay/0.2", "/delay/999"):
        assert ask("GET", path).status == 200
    assert SLEPT == [0.2, 10.0]


def test_redirects() -> None:
    assert ask("GET", "/redirect/3").headers == (("Location", "/redirect/2"),)
    assert ask("GET", "/redirect/1").headers == (("Location", "/get"),)
    there = ask("GET", "/redirect-to", query={"url": ["http://x/"], "status_code": ["307"]})
    assert (there.status, there.headers) == (307, (("Location", "http://x/"),))
    assert ask("GET", "/redirect-to", query={"url": ["http://x/\r\nSet-Cookie: a=b"]}).status == 400


def masked(kind: int, payload: bytes, head: int = 0x80) -> bytes:
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return bytes([head | kind]) + length + b"abcd" + bytes(byte ^ b"abcd"[i % 4] for i, byte in enumerate(payload))


def converse(data: bytes) -> bytes:
    answer = ask("GET", "/websocket", upgrade="websocket", sec_websocket_version="13", sec_websocket_key=KEY)
    assert answer.status == 101
    assert ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in answer.headers  # RFC 6455, section 1.3
    outgoing = io.BytesIO()
    assert answer.upgraded is not None
    answer.upgraded(io.BytesIO(data), outgoing)
    return outgoing.getvalue()


def test_the_websocket_echoes_until_it_is_closed() -> None:
    long = b"x" * 300
    got = converse(
        masked(1, b"hi") + masked(9, b"?") + masked(2, long) + masked(8, b"\x03\xe8bye") + masked(1, b"late")
    )
    assert got == b"\x81\x02hi" + b"\x8a\x01?" + b"\x82\x7e\x01\x2c" + long + b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("data", [b"\x81\x02hi", masked(1, b"part", head=0), masked(5, b""), b"\x81\xff" + b"\0" * 8])
def test_what_the_websocket_does_not_take_closes_it(data: bytes) -> None:
    assert converse(data) == b"\x88\x02\x03\xea"


def test_the_websocket_wants_an_upgrade() -> None:
    assert ask("GET", "/websocket").status == 400
    wrong_key = ask("GET", "/websocket", upgrade="websocket", sec_websocket_version="13", sec_websocket_key="short")
    assert wrong_key.status == 400
