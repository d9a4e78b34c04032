"""What is not on this machine: files at addresses (fsspec), and work done by Beam.

Imports `system` and `values`.
"""
