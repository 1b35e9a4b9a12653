"""Become another program: `python -P supervisor.py become.py PROGRAM ARGUMENT...` supervises what is no Python script.

Imports only the standard library.
"""

import os
import sys

if __name__ == "__main__":
    os.execv(sys.argv[1], sys.argv[1:])
