"""DUSt3R: pointmaps from pairs of photos, aligned to a scene (Wang et al. 2024)."""
