"""From recorded cells to what is published: tables, figures, a page. Reads cells, changes none, imports no torch.

`write_report` (suite_report.py) and `write_ablation` (ablation.py) compare cells (comparison.py); what a column shows
stands in columns.py, what a note says in notes.py, how either is written in formats.py. protocol_rows.py sets the two
protocols of a suite side by side; `write_tuning_page` (tuning_page.py) publishes the trials of a search (trials.py).
"""
