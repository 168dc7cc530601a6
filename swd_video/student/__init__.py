"""Students: the pipeline that samples them, on disk, and exported for other tools."""
