"""Every trained model of a store: what it is, where it comes from, and which one to take."""
