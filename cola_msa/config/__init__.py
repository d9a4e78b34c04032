"""The frozen values of a run: schema, presets, strategies, the paper's numbers.

No NumPy, no TensorFlow. Imports `system` and `values`.
"""
