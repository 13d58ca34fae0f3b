"""Every parameter, declared once, and the ways to set it."""
