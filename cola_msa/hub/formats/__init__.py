"""An encoder as files of other programs, and whether these compute what it does.

Imports what `hub` imports.
"""
