"""A file or its samples to mono at 16 kHz to log-mel windows.

Imports `system` and `config`.
"""
