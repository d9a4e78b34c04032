"""A run, a pretrained folder, an export or an address to an opened model, and back.

Imports every room above but `pairs`.
"""
