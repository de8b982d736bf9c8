"""The wire protocol, generated from `proto/`: run `make proto`, never edit."""
