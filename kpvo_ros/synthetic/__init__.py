"""The synthetic world: a seeded textured world, its renderer, camera paths and sequences."""
