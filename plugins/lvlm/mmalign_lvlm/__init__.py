"""Vision-language models of transformers for mmalign."""
