"""Tempest's own files: its configuration, the accounts it may use, the lists of what it runs."""

from pathlib import Path

import yaml

from tests.support.keystone import REGION
from tests.tempest.site import Site

_CONF = """[DEFAULT]
log_dir = {workspace}/logs
[auth]
use_dynamic_credentials = false
test_accounts_file = {workspace}/accounts.yaml
create_isolated_networks = false
admin_username = {admin}
admin_password = {password}
admin_project_name = {project}
admin_domain_name = Default
[identity]
auth_version = v3
uri_v3 = {auth_url}
v3_endpoint_type = public
region = {region}
[oslo_concurrency]
lock_path = {workspace}/locks
[service_available]
cinder = true
glance = true
nova = true
# No network is ever asked for: with "false" whole classes are skipped that only say that they might want one.
neutron = true
swift = false
horizon = false
[volume]
catalog_type = block-storage
region = {region}
min_microversion = 3.0
max_microversion = 3.71
storage_protocol = local
vendor_name = Stillframe
backup_driver = posix
build_interval = 1
build_timeout = 90
[volume-feature-enabled]
backup = true
snapshot = true
clone = true
extend_volume_with_snapshot = true
multi_backend = false
manage_volume = false
manage_snapshot = false
extend_attached_volume = false
enable_volume_image_dep_tests = false
api_extensions =
[validation]
run_validation = false
[compute]
image_ref = {image_id}
image_ref_alt = {image_id}
flavor_ref = 1
flavor_ref_alt = 2
region = {region}
build_interval = 1
build_timeout = 90
[compute-feature-enabled]
shelve = false
[image]
region = {region}
[enforce_scope]
cinder = true
"""
_TYPES = {"admin": {"types": ["admin"]}, "reader": {"roles": ["reader"], "types": ["reader"]}, "member": {"roles": ["member"]}}
_STESTR = """[DEFAULT]
test_path = {discover}
top_dir = {top}
group_regex = ([^\\.]*\\.)*
"""


def write(site: Site, workspace: Path, discover: Path) -> None:
    """Fills a directory that ``tempest run --workspace-path`` takes. ``discover`` is Tempest's directory of that name."""
    for name in ("etc", "logs", "locks"):
        (workspace / name).mkdir(parents=True)
    admin = next(person for person, role in site.people if role == "admin")
    text = _CONF.format(
        workspace=workspace,
        admin=admin.name,
        password=admin.password,
        project=admin.project,
        auth_url=site.keystone.url,
        region=REGION,
        image_id=site.image_id,
    )
    (workspace / "etc/tempest.conf").write_text(text)
    accounts = [
        {
            "username": person.name,
            "password": person.password,
            "project_name": person.project,
            "domain_name": "Default",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            **_TYPES[role],
        }
        for person, role in site.people
    ]
    (workspace / "accounts.yaml").write_text(yaml.safe_dump(accounts))
    (workspace / ".stestr.conf").write_text(_STESTR.format(discover=discover, top=discover.parents[1]))
