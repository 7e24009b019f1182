"""Pure functions from samples to scores and from scores to intervals and tests; no file is read, no torch imported.

`problem_scores` (scores.py) gives a row a problem; `crossed_interval` and `sign_flip_test` (intervals.py) do the rest.
"""
