"""Facts about films from files that people have: files.py recognizes them, formats.py has the table of formats."""
