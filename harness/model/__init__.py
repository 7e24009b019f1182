"""A policy and its log-probs: loading it, sharing it out over ranks, and the only forward passes of the trainer.

`load_model` (language.py) gives a `LanguageModel`; `Rows` (rows.py) go through a `PolicyModel` (policy.py) by a
`Scorer` (scorer.py); `Ranks` (ranks.py) are the processes that train together; embedded.py makes the embedded default.
lora.py trains an adapter in place of all weights.
"""
