"""The stages of a transfer, one module each, and what they share."""
