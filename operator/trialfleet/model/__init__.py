"""What every package means by a trial, a study, a session, a budget and an end."""
