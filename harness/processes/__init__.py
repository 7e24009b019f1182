"""Processes of their own, in milliseconds: what runs in one changes nothing in any other, and ends with the sweep.

`start` (fork_server.py) starts one; `call_forked` (apart.py) has a function called in a fork of one.
"""
