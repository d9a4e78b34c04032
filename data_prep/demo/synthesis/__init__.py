"""Notes to sound.
"""
