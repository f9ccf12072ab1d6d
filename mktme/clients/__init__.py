"""What programs that nobody here wrote connect to: SQLite, numpy arrays, FUSE, NBD.

Each client is a module of its own with a library of its own, optional at install
(`pip install mktme[sqlite,fuse]`).
"""
