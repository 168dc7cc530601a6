"""Programs that made what is shipped, run as `python -m tools.NAME`; this file is the first of each to run."""

import logging

from swd_video.environment import prepare_process

prepare_process()
# Where its kernels do not load it says so at each import, as for the package's commands.
logging.getLogger("xformers").setLevel(logging.ERROR)
