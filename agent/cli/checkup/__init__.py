"""What `hostmesh doctor` looks at, one module for each field. They read and try, and change nothing on the host."""
