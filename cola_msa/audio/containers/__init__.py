"""Whether an audio file is whole, from its container's own bookkeeping.

Imports what `audio` imports.
"""
