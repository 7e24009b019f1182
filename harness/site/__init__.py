"""A report as a static site: one folder that opens from a disk, without a server and without anything from elsewhere.

`suite_pages` (site_suite.py) turns what a report published into data, without touching a file; `site_files`
(site_files.py) turns the data of one suite or several into files, and `write_site` writes them. The page itself is
hand-written HTML, CSS and JavaScript in page/; the libraries that draw its charts and tables come from pip packages
(vendored.py).
"""
