"""For whoever writes or reads an algorithm: the conformance check, the template, the atlas and its portraits.

Others use `check.py`'s `examine`, `template.py`'s `write_module` and `atlas.py`'s `card_of`.
"""
