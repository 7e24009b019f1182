"""Processes of their own, in milliseconds: what runs in one changes nothing in any other, and ends with the sweep.

`start` (fork_server.py) starts one, `call_apart` (apart.py) has a function called in one.
"""
