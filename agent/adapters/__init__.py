"""All input and output, one package per outside system.

Adapters know mesh types and errors, never translate or each other's insides.
"""
