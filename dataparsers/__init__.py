"""Estimators as nerfstudio dataparsers."""
