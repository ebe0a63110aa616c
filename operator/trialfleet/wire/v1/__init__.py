"""Generated stubs of the protocol ``trialfleet.v1``; made by ``make proto``."""
