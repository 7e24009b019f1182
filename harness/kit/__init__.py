"""For whoever writes or reads an algorithm: the conformance check, the template, the atlas and its portraits.

Others use `check.py`'s `examine`, `template.py`'s `write_module`, `cards.py`'s `load` and
`atlas.py`'s `write_atlas`.
"""
