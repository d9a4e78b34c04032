"""A data set at an address to local files, one clip at a time.

Imports `datasets`.
"""
