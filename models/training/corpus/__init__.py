"""The corpus builder: what the embedded model was trained on, from registry packages, with licences file by file."""
