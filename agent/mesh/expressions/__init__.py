"""Mixer's expressions as typed trees: what they are, what they are worth, how much of one is known beforehand. Pure.

Text becomes a tree in agent/api/expressions; Envoy's form of one is translate's. An attribute may be absent. What is
asked of an absent attribute has no value, and a rule whose match has none does not hold; `a | b` is b where a has none.
A key that a map lacks is "" except at the left of `|`, where it is absent.
"""
