"""The only room that starts programs, opens libvirt, mounts and fsyncs: one thin function per outside verb."""
