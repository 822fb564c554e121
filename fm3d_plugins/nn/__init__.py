"""Parts of networks that several methods share; torch alone."""
