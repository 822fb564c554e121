"""Networks trained on many scenes: batches, optimisers, the loop, scores beside baselines."""
