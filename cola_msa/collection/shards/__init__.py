"""Many files to a folder of Parquet shards: a plan, its units of work, who does them.

Imports what `collection` imports, and `remote`.
"""
