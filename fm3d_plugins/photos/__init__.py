"""Photos of a scene: found and checked, their pixels, and how networks see them."""
