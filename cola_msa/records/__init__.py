"""A prepared folder to segments and windows: the contract with data_prep.

Imports `system` and `config`.
"""
