"""What crosses the wire: generated stubs, the encoding of fields, certificates and tokens."""
