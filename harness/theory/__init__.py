"""The theory, measured: every claim of the seed article against a known answer, in float64, on the algorithm classes.

A finite problem has n responses, rewards R and an anchor π'; its optimum π* ∝ π' e^{R/β} is known (seed eq. 4). A
tabular policy has one logit per response, so every response is one token (T = 1) and every sum can be written out.

    problem.py       finite problems, their optimum, distances between policies
    expectation.py   exact expectations, gradients per group, minimisers and fixed points, training on samples
    findings.py      rows of the table, and how much of everything is run
    optimum.py, sampling_policies.py, estimator.py, decomposition.py, policy_gradient_tie.py, rounds.py, fixed_batch.py
                     claims 1 to 7
    every_algorithm.py   where the update of each registered algorithm ends
    theory_figures.py, claims.py   what is drawn, and the run of it all

Shape suffixes beside those of `algorithms.base`:
    E  experiments that run side by side: problems × starting points × …
    N  responses of the finite problem
Here G counts the groups of one expectation or mini-batch, all of the same prompt.
"""
