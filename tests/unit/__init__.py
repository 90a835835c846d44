"""What needs no server: settings, ids, the lifecycle, key names."""
