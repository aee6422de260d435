"""What a run may say: the schema of every setting, its loader, and the shipped presets."""
