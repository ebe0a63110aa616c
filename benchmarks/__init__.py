"""Speed side by side with what Trialfleet replaces: ``make bench``."""
