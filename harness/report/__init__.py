"""From recorded cells to what is published: tables, figures, a page. Reads cells, changes none, imports no torch.

`write_report` (suite_report.py) and `write_ablation` (ablation.py) compare cells (comparison.py); what a column shows
stands in columns.py, what a note says in notes.py, how either is written in formats.py.
"""
