"""Where objects live: finds or starts the activation of a call, runs its code, commits its writes."""
