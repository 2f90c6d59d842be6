"""Policies: `model` is what they mean, `parse` turns text into them, `selection` says whose is in force."""
