"""What re-identification is learnt by and measured with: heads, losses, the adversary of cameras, ranking metrics."""
