"""The command line's nouns: one file each, mounted in ``stillframe`` and in OpenStackClient alike."""
