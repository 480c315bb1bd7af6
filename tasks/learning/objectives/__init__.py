"""What is learned from text alone, one file each: continued pretraining, before any label."""
