"""`make fuzz`: inputs by atheris, guided by coverage, for what decodes anything that comes from outside."""
