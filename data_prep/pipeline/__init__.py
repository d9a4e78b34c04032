"""An index of clips and a configuration to shards and a manifest.

Imports `datasets`, `remote` and `stems`.
"""
