"""What the embedded yard adds to the command line. Each module is imported when its command is called."""
