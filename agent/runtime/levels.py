"""What of agent.yaml SIGHUP reads again: log levels and interception. Everything else there waits for a restart."""

from __future__ import annotations

import logging

import msgspec

from agent.config import Config, InterceptionConfig, load_config
from agent.errors import ConfigError
from agent.runtime.log_setup import set_log_level

log = logging.getLogger(__name__)


class Levels:
    """What is in force of agent.yaml."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @property
    def interception(self) -> InterceptionConfig:
        """Return the interception settings in force."""
        return self._config.interception

    def read_again(self) -> str | None:
        """Take the agent's log level, and return Envoy's if it is another one; a file with faults changes nothing."""
        old = self._config
        try:
            new = load_config(old.config_dir, old.state_dir, old.run_dir)
        except ConfigError as error:
            for problem in error.problems:
                log.error("not read again: %s", problem)
            return None
        if new.log.level != old.log.level:
            set_log_level(new.log.level)
            log.warning("log level: %s", new.log.level)
        proxy = msgspec.structs.replace(old.proxy, log_level=new.proxy.log_level)
        self._config = msgspec.structs.replace(old, log=new.log, proxy=proxy, interception=new.interception)
        if waiting := [name for name in old.__struct_fields__ if getattr(self._config, name) != getattr(new, name)]:
            log.warning("takes effect at the next restart: %s", ", ".join(waiting))
        return new.proxy.log_level if new.proxy.log_level != old.proxy.log_level else None
