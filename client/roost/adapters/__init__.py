"""Where the client meets the world: gRPC, clocks."""
