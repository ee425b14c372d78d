"""What one field may hold, told with what is allowed: small checks, combined by each kind's spec. Pure."""
