"""What a suite says, validated, and which cells it makes: what is refused is refused here, before any work.

`load_suite` (load.py) reads a `Suite` (config.py), `plan` (plan.py) makes its cells, `REWARDS` (rewards.py) is what a
response earns in training.
"""
