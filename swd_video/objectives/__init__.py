"""What a student is trained on: one file for each objective, from its section of a config to its loss."""
