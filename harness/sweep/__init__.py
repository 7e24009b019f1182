"""Runs the cells of a suite: here, on ranks, on a Ray cluster; from a suite to its report.

`run_sweep` (run.py) is the whole of it, `run_cell` (cell.py) one cell, `LocalPool` (pool.py) and `RayCluster`
(ray_sweep.py) say where, and tuning.py runs the trials.
"""
