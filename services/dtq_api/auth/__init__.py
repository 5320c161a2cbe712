"""Authentication and authorisation: tokens identify callers, and a policy gives callers permissions."""
