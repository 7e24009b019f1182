"""The training loop (train.py, from top to bottom) and its parts: coefficients, the one backward pass, resumption.

`accumulate_gradient` (gradient.py) applies any algorithm's coefficients, batch.py draws, grades and assembles samples,
supply.py supplies what else an algorithm needs, replay.py records what is drawn and gives it back, learner.py holds the
models, and resume.py goes on after a kill.
"""
