"""The file formats of a trace, one a file, and what they share. `moeviz.formats.exports` is the door."""
