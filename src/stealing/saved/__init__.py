"""Run folders as data: a folder, which a stranger may have written, in; checked settings out.

`files` reads and writes the files, `schema` checks their values, `ownership` replaces what only the
user's own command may decide, and `restore` puts the parts together for `eval.py`.
"""
