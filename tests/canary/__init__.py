"""A module that nothing may import: the fuzz tests name it in files of strangers, and see whether
it sings."""
