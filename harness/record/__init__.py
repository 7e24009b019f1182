"""What a run leaves on disk, in files that are whole or not there, and what it was made with.

`CellFolder` (cell_folder.py) alone knows the names and formats inside a cell's folder; `write` and `new_folder`
(files.py) write in one step; `environment` says what a number was made with, `seed_of` where randomness comes from.
text.py has a function for each medium that shows what others wrote: nothing of theirs is printed or published without.
"""
