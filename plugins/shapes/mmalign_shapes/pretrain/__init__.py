"""Train the checkpoints of the shapes world from nothing: a Stable Diffusion pipeline, and the CLIP that rewards it."""
