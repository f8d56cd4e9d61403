"""The command line. Each command reads its options, calls one function and prints the result; it imports no torch."""
