"""What mirrors and tiers share."""
