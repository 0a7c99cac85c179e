"""Where backups lie and what makes them trustworthy.

A backup is a set of plain qcow2 files and a manifest. Whoever copies them into one directory can restore the volume with
nothing but ``qemu-img``; see ``docs/how-to/restore-a-backup.md``.
"""
