"""Method A: keypoints from homographic variations with rendered things in them (seed 000)."""
