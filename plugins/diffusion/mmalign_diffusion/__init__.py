"""mmalign for diffusers image models: one adapter for four families of pipelines, and rewards for pictures."""
