"""What a run says of itself: checked before it begins, its steps in a log, its end, its stop."""
