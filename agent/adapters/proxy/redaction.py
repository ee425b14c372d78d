"""Takes private keys out of Envoy's answers while they pass. Pure.

Envoy leaves them out itself; that none ever leaves the host must not depend on it.
"""

from __future__ import annotations

import re

SECRET_FIELDS = ("private_key", "private_key_provider", "password", "session_ticket_keys", "generic_secret")
"""Fields of Envoy's API that hold a secret, or the name of a file with one."""
REDACTED = "[redacted]"
MAX_VALUE = 256 * 2**10
"""Bytes of one secret value; a longer one is no key."""

# Envoy prints `"key": value`; inside a string either quote would have a backslash before it.
_KEY = re.compile(rb'(?<!\\)"(?:%s)"\s{0,8}:' % "|".join(SECRET_FIELDS).encode())
_OVERLAP = max(map(len, SECRET_FIELDS)) + 16
"""What is held back, as it may be the beginning of a key; longer than any key with what stands before and after it."""


class Redactor:
    """Replaces the value of every secret field of a JSON text that comes in pieces."""

    def __init__(self) -> None:
        self._held = b""
        self._looked_at = 0
        """Bytes of what is held that can only stand before a key."""
        self._value: _Value | None = None

    def feed(self, piece: bytes) -> bytes:
        """Return what may leave by now; raises ValueError if a secret does not end."""
        held = self._held + piece
        done = []
        while True:
            if self._value is not None:
                end = self._value.end_in(held)
                if end is None:
                    self._held = b""
                    break
                held, self._value, self._looked_at = held[end:], None, 0
            found = _KEY.search(held, self._looked_at)
            if found is None:
                done.append(held[:-_OVERLAP])
                self._looked_at = 1 if len(held) > _OVERLAP else self._looked_at
                self._held = held[-_OVERLAP:]
                break
            done += (held[: found.end()], b' "%s"' % REDACTED.encode())
            held, self._value = held[found.end() :], _Value()
        return b"".join(done)

    def end(self) -> bytes:
        """Return the rest."""
        held, self._held = self._held, b""
        return held


class _Value:
    """Finds the end of one JSON value."""

    def __init__(self) -> None:
        self._depth = self._size = 0
        self._begun = self._in_string = self._escaped = False

    def end_in(self, text: bytes) -> int | None:
        """Return where in this piece the value ends, None if it goes on; raises ValueError if it is too long."""
        for index, byte in enumerate(text):
            self._size += 1
            if self._size > MAX_VALUE:
                raise ValueError("a secret field in Envoy's answer does not end")
            end = self._end_of_string(byte) if self._in_string else self._end_at(byte)
            if end is not None:
                return index + end
        return None

    def _end_of_string(self, byte: int) -> int | None:
        if self._escaped:
            self._escaped = False
        elif byte == ord("\\"):
            self._escaped = True
        elif byte == ord('"'):
            self._in_string = False
            return None if self._depth else 1
        return None

    def _end_at(self, byte: int) -> int | None:
        """Return 1 if the value ends with this byte, 0 if it ended before it."""
        if byte in b"}]":
            self._depth -= 1
            return 0 if self._depth < 0 else 1 if not self._depth else None
        if byte in b", \t\r\n":
            return 0 if self._begun and not self._depth else None
        self._begun = True
        self._in_string = byte == ord('"')
        self._depth += byte in b"{["
        return None
