"""The ratings in MariaDB or MySQL, read with the `mariadb` command (Debian's mariadb-client-core).

The command and no Python driver: it is Debian's own, kept as the server is, and the application needs nothing that is
not in Python's standard library, wherever it runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_SECONDS = 5
_QUERY = "SELECT Rating FROM ratings ORDER BY ReviewID LIMIT 2"
_REVIEWERS = ("Reviewer1", "Reviewer2")


class DatabaseError(Exception):
    """The database cannot be asked, or answers something else."""


@dataclass(frozen=True)
class Database:
    """Where the database is and who asks."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Database:
        """Return what MYSQL_DB_HOST, MYSQL_DB_PORT, MYSQL_DB_USER and MYSQL_DB_PASSWORD say."""
        return cls(
            environment.get("MYSQL_DB_HOST") or "mysqldb",
            int(environment.get("MYSQL_DB_PORT") or "3306"),
            environment.get("MYSQL_DB_USER") or "root",
            environment.get("MYSQL_DB_PASSWORD") or "password",
        )

    def ratings(self) -> dict[str, int]:
        """Return each reviewer's stars; raises DatabaseError."""
        options = ["--no-defaults", f"--host={self.host}", f"--port={self.port}", f"--user={self.user}"]
        reading = ["--batch", "--skip-column-names", f"--connect-timeout={TIMEOUT_SECONDS}", f"--execute={_QUERY}"]
        try:
            done = subprocess.run(
                ["mariadb", *options, *reading, "test"],
                capture_output=True,
                text=True,
                timeout=2 * TIMEOUT_SECONDS,
                env={**os.environ, "MYSQL_PWD": self.password},  # an argument could be read by every user
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DatabaseError(f"mariadb: {error}") from error
        if done.returncode:
            raise DatabaseError(" ".join(done.stderr.split()))
        try:
            return dict(zip(_REVIEWERS, map(int, done.stdout.split()), strict=True))
        except ValueError as error:
            raise DatabaseError("the table `ratings` does not have a number for each of two reviewers") from error
