"""The gRPC edge: aggregated discovery over grpc.aio."""
