"""Maintenance: the roles that keep accepted tasks moving, one file each. Any number of processes may run them."""
