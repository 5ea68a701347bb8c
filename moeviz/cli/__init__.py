"""The command line `moeviz`: one file a command."""
