"""Sans-IO xDS: what each stream must be told. No asyncio, no grpc, no clock."""
