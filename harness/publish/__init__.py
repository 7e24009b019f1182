"""From recorded cells to what others can check, cut, join and put on a page.

A published folder has tables, figures, and the raw rows (raw_rows.py) that these follow from: `verify_published`
(recompute.py) makes them anew and compares. `publish_suite` (freeze.py) makes such a folder from complete runs alone,
`joined` (joining.py) joins what several machines ran, `cut` (cutting.py) takes from a table what a paper needs.
"""
