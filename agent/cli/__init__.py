"""The `hostmesh` command, one module for each group of commands; listed in main.py."""
