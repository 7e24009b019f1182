"""Whether the intervals and tests of the reports keep what they promise, measured on suites whose truth is known.

`gvpo-bench calibrate` calls `calibrate` (calibrate.py); the simulation itself is in simulate.py.
"""
