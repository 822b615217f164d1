"""What every Troupe process stands on: settings, telemetry, gRPC, life cycle, clock, ledger, SQLite."""
