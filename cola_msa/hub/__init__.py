"""Any holder of an encoder (a run, a pretrained folder, an export, an address) to an
opened model, and back.

Imports every room above but `pairs`.
"""
