"""Classical structure from motion."""
