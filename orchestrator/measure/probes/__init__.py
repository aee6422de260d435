"""What else a model needs beside time: memory, energy, a GPU, and making its input from a file."""
