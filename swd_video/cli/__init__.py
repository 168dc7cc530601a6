"""The `swd-video` command line: one module a command, imported only when it runs."""
