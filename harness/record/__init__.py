"""What a run leaves on disk, in files that are whole or not there and carry checksums, and what it was made with.

`CellFolder` (cell_folder.py) reads and writes a cell's folder and cell_state.py judges it, by the checksums of sums.py;
verify.py compares all of a suite. `write` and `new_folder` (files.py) write in one step; `environment` says what a
number was made with, `seed_of` where randomness comes from.
text.py has a function for each medium that shows what others wrote: nothing of theirs is printed or published without.
"""
