"""What is found out before anything starts: `gvpo-bench doctor` (doctor.py) and `gvpo-bench plan` (costs.py).

`require_health` ends a sweep that would waste its hours; `suite_cost` says what one takes in tokens, memory and hours.
"""
