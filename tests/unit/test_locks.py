"""The lock files are in step with pyproject.toml (`make lock` renews them); reads files only, asks no registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[2]
PIN = re.compile(r"^([a-z0-9.-]+)==([^ ;\\]+)", re.MULTILINE)
RENEW = "run `make lock`"


def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((TOP / "pyproject.toml").read_text())


def wanted(name: str) -> list[str]:
    """Return the requirements that a lock file stands for."""
    table = project()
    listed: list[str] = {
        "requirements-build.lock": table["build-system"]["requires"],
        "requirements.lock": table["project"]["dependencies"],
        "requirements-dev.lock": table["project"]["dependencies"] + table["project"]["optional-dependencies"]["dev"],
    }[name]
    return listed


def pins(name: str) -> dict[str, str]:
    """Return the version of each package in a lock file."""
    return dict(PIN.findall((TOP / name).read_text()))


LOCKS = ["requirements-build.lock", "requirements.lock", "requirements-dev.lock"]


@pytest.mark.parametrize("name", LOCKS)
def test_each_requirement_is_pinned_within_its_bounds(name: str) -> None:
    locked = pins(name)
    for requirement in map(Requirement, wanted(name)):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{name}: {requirement.name}: not there; {RENEW}"
        assert requirement.specifier.contains(version), f"{name}: {version} is not {requirement}; {RENEW}"


@pytest.mark.parametrize("name", LOCKS[1:])
def test_nothing_is_pinned_that_pyproject_no_longer_names(name: str) -> None:
    named = {canonicalize_name(Requirement(text).name) for text in wanted(name)}
    blocks = re.split(r"\n(?=[a-z])", (TOP / name).read_text())
    direct = {block.partition("==")[0] for block in blocks if "hostmesh (pyproject.toml)" in block}
    assert direct == named, f"{name}: {RENEW}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash_and_no_address(name: str) -> None:
    text = (TOP / name).read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=[a-z])", text):
        assert "--hash=sha256:" in block, block


def test_the_locks_agree_with_each_other() -> None:
    everything = pins("requirements-dev.lock")
    for name in LOCKS[:2]:
        for package, version in pins(name).items():
            assert everything[package] == version, f"{package}: {RENEW}"
