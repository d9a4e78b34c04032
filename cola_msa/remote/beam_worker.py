"""A worker process of Beam on this machine: Beam's own, without its news.

It tells of every connection on stderr, and is given no flags that could say otherwise.
Warnings and errors stay, but for those of its start about folders of clusters.
"""

import logging
import runpy

BEAM = "apache_beam.runners.worker.sdk_worker_main"


def main() -> None:
    """Becomes Beam's worker."""
    logging.disable(logging.INFO)
    logging.getLogger("__main__").setLevel(logging.ERROR)
    runpy.run_module(BEAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
