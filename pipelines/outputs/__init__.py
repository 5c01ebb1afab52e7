"""Every file format that one stage writes and another one reads."""
