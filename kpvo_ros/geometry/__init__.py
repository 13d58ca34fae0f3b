"""Geometry: rigid motions, cameras, the pixel convention, warps, epipolar geometry, solvers."""
