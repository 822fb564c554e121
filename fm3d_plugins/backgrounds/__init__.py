"""What lies behind the things that photos show, told from the photos."""
