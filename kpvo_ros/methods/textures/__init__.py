"""A diffusion model that makes textures, from noise, without any download."""
