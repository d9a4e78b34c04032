"""Addresses (fsspec) to local files, one clip at a time.

Imports `datasets`.
"""
