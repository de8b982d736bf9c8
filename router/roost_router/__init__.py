"""A stateless router: finds the owner of each call, forwards, sends again what was refused or lost."""
