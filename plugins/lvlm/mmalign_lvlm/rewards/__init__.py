"""What trained models of segments say of answers, as rewards."""
