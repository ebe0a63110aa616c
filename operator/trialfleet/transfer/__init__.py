"""Studies that move: from one storage to another, trial by trial, in bounded memory."""
