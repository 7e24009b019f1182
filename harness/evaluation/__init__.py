"""Scores of a checkpoint, in a sweep, by `gvpo-bench eval` or through lm-eval; and verdicts on recorded responses.

`evaluate` (evaluate.py) gives a row a sample, for all of them, as `EvalSettings` (eval_settings.py) say.
"""
