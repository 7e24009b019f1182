"""What a suite says, validated, and which cells it makes: what is refused is refused here, before any work.

`load_suite` (load.py) reads a `Suite` (config.py, and points.py for ablations), `plan` (plan.py) makes its cells, and
`REWARDS` (rewards.py) is what a response earns in training.
"""
