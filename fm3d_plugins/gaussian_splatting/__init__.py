"""3D Gaussian Splatting (Kerbl et al. 2023)."""
