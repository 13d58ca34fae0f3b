"""Cross-view completion and alignment, depth with visual odometry (seed 004)."""
