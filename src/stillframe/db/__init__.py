"""Tables, one query module per noun, migrations. No module here knows libvirt, a share or HTTP."""
