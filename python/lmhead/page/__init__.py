"""What every page has in common: its look, its escaping, its plots."""
