"""Many runs: on the processes of one machine, or on a Ray cluster."""
