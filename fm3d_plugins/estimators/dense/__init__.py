"""What estimators by networks that give depth for every pixel share."""
