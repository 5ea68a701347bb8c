"""The file formats of a trace, one a file, and what they share. `moeviz.exports` is the door."""
