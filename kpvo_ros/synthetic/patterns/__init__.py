"""Procedural textures: functions that paint one tileable picture from seeded noise."""
