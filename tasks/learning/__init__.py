"""Learning itself: torch and transformers only. Start at `contracts.py`."""
