"""What mmalign-video offers. Importing this file imports nothing heavy."""
