"""
What applications trust: the system's authorities and those of the company, in the files that runtimes read.

The command reads and writes the files; nothing here does. Invariant: what is written holds every authority that was
there before.
"""
