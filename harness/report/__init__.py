"""From recorded cells to what is published: tables, figures, a page. Reads cells, changes none, imports no torch.

`recorded_suite` (recorded_cells.py) reads a folder of runs; `suite_report` (suite_report.py) and `ablation_report`
(ablation.py) compare its cells (comparison.py), and write nothing: `publish` (page.py) does. What a column shows stands
in columns.py, what a note says in notes.py, how either is written in formats.py. protocol_rows.py sets the two
protocols of a suite side by side; `write_tuning_page` (tuning_page.py) publishes the trials of a search (trials.py).
"""
