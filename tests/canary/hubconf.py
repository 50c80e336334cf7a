"""What sings: the import of this file and a call of its function both open a file to write, which
the tests notice.

It has the name that `torch.hub.load` looks for in a folder.
"""

import os


def sing(*arguments: object, **settings: object) -> None:
    with open(os.devnull, "w"):
        pass


sing()
