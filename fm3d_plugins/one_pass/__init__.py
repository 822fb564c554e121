"""Methods whose result is there at once: nothing is trained on the scene."""
