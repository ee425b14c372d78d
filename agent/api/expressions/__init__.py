"""Mixer's expression language: text into typed trees (agent/mesh/expressions), or one line with line and column."""

from agent.api.expressions.parser import Fault, parse

__all__ = ["Fault", "parse"]
