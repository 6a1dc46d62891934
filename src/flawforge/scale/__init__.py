"""When one machine is not enough: Ray runs the same judging, and the same fits, on many cores and many machines."""
