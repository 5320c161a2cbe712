"""Maintenance: the roles that keep accepted tasks moving, one a file. Any number of processes may run them."""
