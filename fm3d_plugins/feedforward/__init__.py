"""What feed-forward methods share of nerfstudio's seams: their result is made once, not trained."""
