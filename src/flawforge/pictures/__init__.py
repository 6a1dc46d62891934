"""Which pictures there are, and what good ones are like."""
