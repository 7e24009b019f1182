"""The rows of trainings, told to TensorBoard, Weights & Biases and trackio ([tracking]).

`tracked` (tracked.py) follows the cells of a sweep for as long as a block lasts, in a process for each tracker: what
becomes of one changes no run, no number and no other tracker.
"""
