"""Who calls the API, and what they may do: tokens become callers, a policy gives callers rights."""
