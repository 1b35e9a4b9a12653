"""Binary encoding of frames between peers; the decoder trusts nothing that the sender claims."""
