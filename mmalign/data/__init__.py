"""Where rows come from: files of prompts, files of pairs, and pairs that the model makes itself."""
