"""A mixture to its stems: from disk, from a cache, or by Open-Unmix.

Imports `datasets`.
"""
