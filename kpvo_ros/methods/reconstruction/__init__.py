"""Method B: keypoints and descriptors that suffice to rebuild the other image (seed 001)."""
