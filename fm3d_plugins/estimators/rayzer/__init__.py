"""RayZer's cameras, which are latent."""
