"""The built-in music: songs composed and synthesised from a seed.

`trees.write.write_demo` writes them as the real datasets are laid out on disk, so that
the same commands read both. Needs NumPy, SciPy and soundfile; no network and no
recordings. Imports nothing of `data_prep` but its own.
"""
