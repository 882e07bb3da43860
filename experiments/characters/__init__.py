"""A small transformer on the characters of a text: structures against AdamW, Muon and SOAP."""
