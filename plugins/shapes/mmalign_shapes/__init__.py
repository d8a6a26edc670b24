"""mmalign-shapes: a small world in which every claim about a picture can be checked."""
