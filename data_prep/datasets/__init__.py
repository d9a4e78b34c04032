"""A data set on disk to its index of clips; one file a data set, `base` the contract.

Imports `cola_msa.audio`.
"""
