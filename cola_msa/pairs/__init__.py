"""(seed, update, replica) to a batch of anchor and positive windows.

Imports `config` and `records`.
"""
