"""One tenant attacks the API in every known way at once; what another tenant's requests see of it."""
