"""Programs that made what is shipped, run as `python -m tools.NAME`; this file is the first of each to run."""

from swd_video.environment import prepare_process

prepare_process()
