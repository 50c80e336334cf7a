"""Give a surrogate to other programs: a run or an encoder's file in; one file and its card out."""
