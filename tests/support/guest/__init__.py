"""The test guest: a kernel, a small initramfs with the real guest agent, and a writer that proves consistency."""
