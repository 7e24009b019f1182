"""The pipeline around the losses, in wings. Each imports only what stands below it:

    sweep → preflight → training, evaluation → sampling, site → model, report → statistics, suite, theory → record

A run enters by `harness/cli.py`; the training loop is `harness/training/train.py`.
"""
