"""A real Envoy accepts every filter and every format of access logs that our own checks let pass."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from google.protobuf import json_format

from agent.api.checks.header_format import PLAIN_COMMANDS
from agent.api.checks.log_format import MORE_COMMANDS, format_problem
from agent.mesh.access_log import Encoding, LineFormat, line_format
from agent.mesh.names import LISTENER_TYPE
from agent.translate.access_log import Written, with_access_logs
from agent.translate.listeners import listener
from agent.translate.resolve import Target
from agent.translate.resource import resource
from agent.translate.tcp import tcp_to
from tests.golden.accepted_expressions import ACCEPTED
from tests.programs import ENVOY


def test_envoy_accepts_what_passes(tmp_path: Path) -> None:
    known = {name.lower(): f"%{name}%" for name in PLAIN_COMMANDS | MORE_COMMANDS}
    more = {"a": "%REQ(:PATH)%", "b": "%RESP(X?:Y):10%", "c": "%TRAILER(A)%", "d": "50%% %PATH(NQ)%"}
    fields = known | more
    assert [text for text in fields.values() if format_problem(text)] == []
    formats = (LineFormat("", tuple(fields.items())), line_format(), line_format(encoding=Encoding.JSON))
    written = [Written(one) for one in formats] + [Written(formats[1], expression) for expression in ACCEPTED]
    message = listener("x", ["127.0.0.1"], 1)
    message.filter_chains.add(filters=[tcp_to("x", (Target("c", 100),))])
    plain = resource(LISTENER_TYPE, "x", message)
    (logging,) = with_access_logs([plain], lambda _: tuple(written), "")
    message.ParseFromString(logging.value)
    clusters = [{"name": "c", "load_assignment": {"cluster_name": "c"}}]
    static = {"listeners": [json_format.MessageToDict(message)], "clusters": clusters}
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"static_resources": static}))
    argv = [str(ENVOY), "--mode", "validate", "-c", str(config), "-l", "error", "--disable-hot-restart"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
