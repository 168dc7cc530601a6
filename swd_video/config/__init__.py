"""Configs: the schema with every default (`schema`), and YAML files with `extends:` (`load`)."""
