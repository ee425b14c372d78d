"""sleep: a host to send requests from; its own service only says that it is there. Run: python sleep.py [PORT]"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from serving import Application, run, text_answer


def application(environment: Mapping[str, str]) -> Application:
    """Return the application."""
    app = Application("sleep", environment.get("SERVICE_VERSION", "v1"))
    app.route("GET", r"/(?:health)?", lambda _: text_answer("zzz\n"))
    return app


if __name__ == "__main__":
    run(application(os.environ), sys.argv[1:])
