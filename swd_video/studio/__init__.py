"""Scripts in, rendered clips out."""
