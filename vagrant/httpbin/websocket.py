"""A websocket that sends back what it gets (RFC 6455): the handshake and the frames, nothing more."""

from __future__ import annotations

import hashlib
import struct
from base64 import b64decode, b64encode
from io import BufferedIOBase

from serving import Answer, Request, json_answer

_ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Section 1.3."""
_MAX_MESSAGE = 1 << 16
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL = 0x80
_PROTOCOL_ERROR = struct.pack(">H", 1002)


def echo(request: Request) -> Answer:
    """GET /websocket: the upgrade, then an echo of each text or binary message (in one frame) until it is closed."""
    key = request.headers.get("sec-websocket-key", "")
    upgrade = request.headers.get("upgrade", "").lower()
    if upgrade != "websocket" or request.headers.get("sec-websocket-version") != "13" or not _is_key(key):
        return json_answer({"error": "this is a websocket: ask for an upgrade to version 13"}, 400)
    accept = b64encode(hashlib.sha1((key + _ACCEPT).encode()).digest()).decode()
    headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept))
    return Answer(b"", 101, headers=headers, upgraded=_converse)


def frame(kind: int, payload: bytes) -> bytes:
    """Return a server's frame: final, without a mask."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    return bytes([_FINAL | kind]) + length + payload


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _converse(incoming: BufferedIOBase, outgoing: BufferedIOBase) -> None:
    while True:
        kind, payload = _read_frame(incoming)
        if kind in (_TEXT, _BINARY, _PING):
            outgoing.write(frame(_PONG if kind == _PING else kind, payload))
        elif kind != _PONG:
            outgoing.write(frame(_CLOSE, payload[:2]))
        outgoing.flush()
        if kind == _CLOSE:
            return


def _read_frame(incoming: BufferedIOBase) -> tuple[int, bytes]:
    """Return kind and payload; what this server does not take, and the end of the connection, is a close."""
    head = incoming.read(2)
    if len(head) < 2:
        return _CLOSE, b""
    length = head[1] & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", incoming.read(2))
    whole = head[0] & _FINAL and head[1] & 0x80 and length < _MAX_MESSAGE  # clients must mask, section 5.3
    kind = head[0] & 0x0F
    if not whole or length == 127 or kind not in (_TEXT, _BINARY, _CLOSE, _PING, _PONG):
        return _CLOSE, _PROTOCOL_ERROR
    mask = incoming.read(4)
    payload = incoming.read(length)
    return kind, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
