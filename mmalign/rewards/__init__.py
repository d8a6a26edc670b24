"""What mmalign does with rewards: check them, weigh them, add them up."""
