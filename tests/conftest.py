"""How hypothesis searches: the same examples each time in CI, so that no rare one stops it; random ones elsewhere.

Never by the clock: how long an example takes says what else the machine does.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None, print_blob=True, deadline=None)
settings.register_profile("exploring", print_blob=True, deadline=None)
settings.load_profile("fixed" if os.environ.get("CI") == "true" else "exploring")
