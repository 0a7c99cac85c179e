"""The block storage service: volumes, snapshots, attachments, in the block-storage v3 dialect."""
