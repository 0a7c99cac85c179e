"""Who may do what, cell by cell: every route of both services against every role, written out."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oslo_policy.policy import RuleDefault

from stillframe.db.engine import Database
from stillframe.errors import Forbidden
from stillframe.web.policy import Enforcer
from stillframe.web.route import Route
from tests.unit.builders import context
from tests.unit.web.shell import RULES, SERVICES, Site

ROLES = ("reader", "member", "admin", "service", "nothing")
READ = {"reader", "admin", "service"}
WRITE = {"member", "admin"}
BOTH = {"member", "admin", "service"}
TABLE: dict[str, dict[str, tuple[set[str], tuple[str, ...]]]] = {
    "volumes": {
        "volume:get": (
            READ,
            (
                "GET /volumes",
                "GET /volumes/detail",
                "GET /volumes/summary",
                "GET /volumes/{id}",
                "GET /volumes/{id}/metadata",
                "GET /volumes/{id}/metadata/{key}",
                "POST /volumes/{id}/action os-show_image_metadata",
                "GET /volumes/{id}/stillframe-chain",
                "GET /resource_filters",
            ),
        ),
        "volume:create": (WRITE, ("POST /volumes",)),
        "volume:update": (
            WRITE,
            (
                "PUT /volumes/{id}",
                "POST /volumes/{id}/metadata",
                "PUT /volumes/{id}/metadata",
                "PUT /volumes/{id}/metadata/{key}",
                "DELETE /volumes/{id}/metadata/{key}",
                "POST /volumes/{id}/action os-set_bootable",
                "POST /volumes/{id}/action os-set_image_metadata",
                "POST /volumes/{id}/action os-unset_image_metadata",
            ),
        ),
        "volume:delete": (WRITE, ("DELETE /volumes/{id}",)),
        "volume:extend": (WRITE, ("POST /volumes/{id}/action os-extend",)),
        "volume:revert_to_snapshot": (
            WRITE,
            (
                "POST /volumes/{id}/action revert",
                "POST /volumes/{id}/action os-undo_revert",
            ),
        ),
        "volume_extension:volume_admin_actions:reset_status": ({"admin"}, ("POST /volumes/{id}/action os-reset_status",)),
        "volume_extension:volume_admin_actions:force_delete": ({"admin"}, ("POST /volumes/{id}/action os-force_delete",)),
        "volume_extension:volume_admin_actions:force_detach": ({"admin"}, ("POST /volumes/{id}/action os-force_detach",)),
        "volume_extension:volume_manage": (
            {"admin"},
            (
                "POST /manageable_volumes",
                "GET /manageable_volumes",
                "GET /manageable_volumes/detail",
                "POST /os-volume-manage",
            ),
        ),
        "volume:adopt": (
            {"service"},
            (
                "POST /os-adopted-volumes",
                "POST /os-adopted-volumes/look",
                "POST /volumes/{id}/action os-release_adopted",
            ),
        ),
        "volume_extension:volume_unmanage": ({"admin"}, ("POST /volumes/{id}/action os-unmanage",)),
        "volume_extension:snapshot_admin_actions:reset_status": ({"admin"}, ("POST /snapshots/{id}/action os-reset_status",)),
        "volume_extension:snapshot_admin_actions:force_delete": ({"admin"}, ("POST /snapshots/{id}/action os-force_delete",)),
        "volume:get_snapshot": (
            READ,
            (
                "GET /snapshots",
                "GET /snapshots/detail",
                "GET /snapshots/{id}",
                "GET /snapshots/{id}/metadata",
                "GET /snapshots/{id}/metadata/{key}",
            ),
        ),
        "volume:create_snapshot": (BOTH, ("POST /snapshots",)),
        "volume:update_snapshot": (
            WRITE,
            (
                "PUT /snapshots/{id}",
                "POST /snapshots/{id}/metadata",
                "PUT /snapshots/{id}/metadata",
                "PUT /snapshots/{id}/metadata/{key}",
                "DELETE /snapshots/{id}/metadata/{key}",
            ),
        ),
        "volume:delete_snapshot": (
            BOTH,
            (
                "DELETE /snapshots/{id}",
                "POST /snapshots/{id}/action os-cancel_deletion",
                "POST /volumes/{id}/action os-delete_snapshots",
            ),
        ),
        "volume:attachment_get": (
            READ,
            (
                "GET /attachments",
                "GET /attachments/detail",
                "GET /attachments/{id}",
            ),
        ),
        "volume:attachment_create": (BOTH, ("POST /attachments",)),
        "volume:attachment_update": (BOTH, ("PUT /attachments/{id}",)),
        "volume:attachment_complete": ({"admin", "service"}, ("POST /attachments/{id}/action os-complete",)),
        "volume:attachment_report": ({"service"}, ("POST /attachments/{id}/action os-report_guest_disk",)),
        "volume:note_fault": ({"service"}, ("POST /volumes/{id}/action os-note_fault",)),
        "volume:attachment_delete": (BOTH, ("DELETE /attachments/{id}",)),
        "volume:create_snapshot_metadata": (
            {"service"},
            ("POST /os-set-metadata create", "POST /volumes/{id}/action os-create_snapshot_metadata"),
        ),
        "volume:finalize_snapshot_metadata": (
            {"service"},
            ("POST /os-set-metadata finalize", "POST /snapshots/{id}/action os-finalize_snapshot_metadata"),
        ),
        "volume:snapshot_delete_metadata": ({"service"}, ("POST /snapshots/{id}/action os-snapshot_delete_metadata",)),
        "volume:update_snapshot_status": (BOTH, ("POST /snapshots/{id}/action os-update_snapshot_status",)),
        "volume:upload_image": (WRITE, ("POST /volumes/{id}/action os-volume_upload_image",)),
        "backup:get": (
            READ,
            (
                "GET /backups",
                "GET /backups/detail",
                "GET /backups/{id}",
            ),
        ),
        "backup:create": (WRITE, ("POST /backups",)),
        "backup:update": (WRITE, ("PUT /backups/{id}",)),
        "backup:restore": (WRITE, ("POST /backups/{id}/restore",)),
        "backup:delete": (WRITE, ("DELETE /backups/{id}",)),
        "backup:export_import": (
            {"admin"},
            (
                "GET /backups/{id}/export_record",
                "POST /backups/import_record",
            ),
        ),
        "backup:admin_actions": (
            {"admin"},
            (
                "POST /backups/{id}/action os-reset_status",
                "POST /backups/{id}/action os-force_delete",
            ),
        ),
        "volume_extension:type_create": ({"admin"}, ("POST /types",)),
        "volume_extension:type_update": (
            {"admin"},
            (
                "PUT /types/{id}",
                "POST /types/{id}/extra_specs",
                "PUT /types/{id}/extra_specs/{key}",
                "DELETE /types/{id}/extra_specs/{key}",
            ),
        ),
        "volume_extension:type_delete": ({"admin"}, ("DELETE /types/{id}",)),
        "scheduler_extension:scheduler_stats:get_pools": ({"admin"}, ("GET /scheduler-stats/get_pools",)),
        "volume:get_transfer": (
            READ,
            (
                "GET /os-volume-transfer",
                "GET /os-volume-transfer/detail",
                "GET /os-volume-transfer/{id}",
                "GET /volume-transfers",
                "GET /volume-transfers/detail",
                "GET /volume-transfers/{id}",
            ),
        ),
        "volume:create_transfer": (
            WRITE,
            (
                "POST /os-volume-transfer",
                "POST /volume-transfers",
            ),
        ),
        "volume:accept_transfer": (
            WRITE,
            (
                "POST /os-volume-transfer/{id}/accept",
                "POST /volume-transfers/{id}/accept",
            ),
        ),
        "volume:delete_transfer": (
            WRITE,
            (
                "DELETE /os-volume-transfer/{id}",
                "DELETE /volume-transfers/{id}",
            ),
        ),
        "volume_extension:volume_actions:reserve": (BOTH, ("POST /volumes/{id}/action os-reserve",)),
        "volume_extension:volume_actions:unreserve": (BOTH, ("POST /volumes/{id}/action os-unreserve",)),
        "volume_extension:volume_actions:begin_detaching": (BOTH, ("POST /volumes/{id}/action os-begin_detaching",)),
        "volume_extension:volume_actions:roll_detaching": (BOTH, ("POST /volumes/{id}/action os-roll_detaching",)),
        "volume_extension:volume_actions:attach": (BOTH, ("POST /volumes/{id}/action os-attach",)),
        "volume_extension:volume_actions:detach": (BOTH, ("POST /volumes/{id}/action os-detach",)),
        "volume:update_readonly_flag": (WRITE, ("POST /volumes/{id}/action os-update_readonly_flag",)),
        "volume:retype": (WRITE, ("POST /volumes/{id}/action os-retype",)),
        "message:get_all": (READ, ("GET /messages",)),
        "message:get": (READ, ("GET /messages/{id}",)),
        "message:delete": (WRITE, ("DELETE /messages/{id}",)),
        "group:get_all": (
            READ,
            (
                "GET /groups",
                "GET /groups/detail",
                "GET /group_types",
                "GET /group_types/{id}",
            ),
        ),
        "volume_extension:default_get_all": ({"admin"}, ("GET /default-types",)),
        "volume_extension:volume_type_access:get_all_for_type": ({"admin"}, ("GET /types/{id}/os-volume-type-access",)),
        "volume_extension:volume_type_access:addProjectAccess": ({"admin"}, ("POST /types/{id}/action addProjectAccess",)),
        "volume_extension:volume_type_access:removeProjectAccess": (
            {"admin"},
            ("POST /types/{id}/action removeProjectAccess",),
        ),
        "volume_extension:volume_type_encryption:get": (READ, ("GET /types/{id}/encryption",)),
        "volume_extension:volume_type_encryption:create": ({"admin"}, ("POST /types/{id}/encryption",)),
        "group:get": (READ, ("GET /groups/{id}",)),
        "group:create": (WRITE, ("POST /groups", "POST /groups/action create-from-src")),
        "group:update": (WRITE, ("PUT /groups/{id}",)),
        "group:delete": (WRITE, ("POST /groups/{id}/action delete",)),
        "group:reset_status": ({"admin"}, ("POST /groups/{id}/action reset_status",)),
        "group:get_all_group_snapshots": (READ, ("GET /group_snapshots", "GET /group_snapshots/detail")),
        "group:get_group_snapshot": (READ, ("GET /group_snapshots/{id}",)),
        "group:create_group_snapshot": (WRITE, ("POST /group_snapshots",)),
        "group:delete_group_snapshot": (WRITE, ("DELETE /group_snapshots/{id}",)),
        "group:reset_group_snapshot_status": ({"admin"}, ("POST /group_snapshots/{id}/action reset_status",)),
        "group:group_types:create": ({"admin"}, ("POST /group_types",)),
        "group:group_types:update": ({"admin"}, ("PUT /group_types/{id}",)),
        "group:group_types:delete": ({"admin"}, ("DELETE /group_types/{id}",)),
        "group:group_types_specs:get_all": ({"admin"}, ("GET /group_types/{id}/group_specs",)),
        "group:group_types_specs:get": ({"admin"}, ("GET /group_types/{id}/group_specs/{key}",)),
        "group:group_types_specs:create": ({"admin"}, ("POST /group_types/{id}/group_specs",)),
        "group:group_types_specs:update": ({"admin"}, ("PUT /group_types/{id}/group_specs/{key}",)),
        "group:group_types_specs:delete": ({"admin"}, ("DELETE /group_types/{id}/group_specs/{key}",)),
        "volume_extension:qos_specs_manage:get_all": (
            {"admin"},
            (
                "GET /qos-specs",
                "GET /qos-specs/{id}/associations",
            ),
        ),
        "volume_extension:qos_specs_manage:get": ({"admin"}, ("GET /qos-specs/{id}",)),
        "volume_extension:qos_specs_manage:create": ({"admin"}, ("POST /qos-specs",)),
        "volume_extension:qos_specs_manage:update": (
            {"admin"},
            (
                "PUT /qos-specs/{id}",
                "GET /qos-specs/{id}/associate",
                "GET /qos-specs/{id}/disassociate",
                "GET /qos-specs/{id}/disassociate_all",
            ),
        ),
        "volume_extension:qos_specs_manage:delete": (
            {"admin"},
            (
                "DELETE /qos-specs/{id}",
                "PUT /qos-specs/{id}/delete_keys",
            ),
        ),
        "volume_extension:quota_classes:get": ({"admin"}, ("GET /os-quota-class-sets/{name}",)),
        "volume_extension:quota_classes:update": ({"admin"}, ("PUT /os-quota-class-sets/{name}",)),
        "volume_extension:services:update": (
            {"admin"},
            (
                "PUT /os-services/enable",
                "PUT /os-services/disable",
                "PUT /os-services/disable-log-reason",
                "PUT /os-services/freeze",
                "PUT /os-services/thaw",
            ),
        ),
        "volume_extension:hosts": (
            {"admin"},
            (
                "GET /os-hosts",
                "GET /os-hosts/{host}",
            ),
        ),
        "volume_extension:capabilities": ({"admin"}, ("GET /capabilities/{host}",)),
        "volume_extension:types": (
            READ,
            (
                "GET /types",
                "GET /types/{id}",
                "GET /types/{id}/extra_specs",
                "GET /types/{id}/extra_specs/{key}",
            ),
        ),
        "volume_extension:limits": (READ, ("GET /limits",)),
        "volume_extension:quotas:show": (
            READ,
            (
                "GET /os-quota-sets/{project_id}",
                "GET /os-quota-sets/{project_id}/defaults",
            ),
        ),
        "volume_extension:quotas:update": (
            {"admin"},
            (
                "PUT /os-quota-sets/{project_id}",
                "DELETE /os-quota-sets/{project_id}",
            ),
        ),
        "volume_extension:services:index": ({"admin"}, ("GET /os-services",)),
        "volume:availability_zone_list": (
            READ,
            (
                "GET /os-availability-zone",
                "GET /extensions",
            ),
        ),
    },
    "compute": {
        "os_compute_api:os-adopt-disks": (
            {"admin"},
            (
                "GET /servers/{id}/os-adopt-disks",
                "POST /servers/{id}/os-adopt-disks",
                "POST /servers/{id}/os-release-disks",
            ),
        ),
        "os_compute_api:servers:index": (
            READ,
            (
                "GET /servers",
                "GET /servers/detail",
                "GET /servers/{id}",
            ),
        ),
        "os_compute_api:servers:power": (
            WRITE,
            (
                "POST /servers/{id}/action os-start",
                "POST /servers/{id}/action os-stop",
                "POST /servers/{id}/action pause",
                "POST /servers/{id}/action unpause",
                "POST /servers/{id}/action resume",
                "POST /servers/{id}/action reboot",
            ),
        ),
        "os_compute_api:flavors": (
            READ,
            (
                "GET /flavors",
                "GET /flavors/detail",
                "GET /flavors/{id}",
            ),
        ),
        "os_compute_api:limits": (READ, ("GET /limits",)),
        "os_compute_api:os-volumes-attachments:index": (
            READ,
            (
                "GET /servers/{id}/os-volume_attachments",
                "GET /servers/{id}/os-volume_attachments/{volume_id}",
            ),
        ),
        "os_compute_api:os-volumes-attachments:create": (WRITE, ("POST /servers/{id}/os-volume_attachments",)),
        "os_compute_api:os-volumes-attachments:delete": (WRITE, ("DELETE /servers/{id}/os-volume_attachments/{volume_id}",)),
        "os_compute_api:os-assisted-snapshots:index": (
            READ,
            (
                "GET /os-assisted-snapshots",
                "GET /os-assisted-snapshots/{set_id}",
                "GET /servers/{id}/os-assisted-snapshots",
                "GET /servers/{id}/os-assisted-snapshots/{set_id}",
            ),
        ),
        "os_compute_api:os-assisted-snapshots:create": (WRITE, ("POST /servers/{id}/os-assisted-snapshots",)),
        "os_compute_api:os-assisted-snapshots:update": (WRITE, ("PUT /os-assisted-snapshots/{set_id}",)),
        "os_compute_api:os-assisted-snapshots:delete": (
            WRITE,
            ("DELETE /os-assisted-snapshots/{set_id}", "DELETE /servers/{id}/os-assisted-snapshots/{set_id}"),
        ),
        "os_compute_api:os-assisted-snapshots:reset_status": (
            {"admin"},
            ("POST /os-assisted-snapshots/{set_id}/action os-reset_status",),
        ),
        "os_compute_api:os-assisted-snapshot-settings:show": (READ, ("GET /servers/{id}/os-assisted-snapshot-settings",)),
        "os_compute_api:os-assisted-snapshot-settings:update": (WRITE, ("PUT /servers/{id}/os-assisted-snapshot-settings",)),
        "os_compute_api:os-snapshot-policies:index": (
            READ,
            (
                "GET /os-snapshot-policies",
                "GET /os-snapshot-policies/{policy_id}",
                "GET /servers/{id}/os-snapshot-policies",
            ),
        ),
        "os_compute_api:os-snapshot-policies:create": (WRITE, ("POST /servers/{id}/os-snapshot-policies",)),
        "os_compute_api:os-snapshot-policies:update": (WRITE, ("PUT /os-snapshot-policies/{policy_id}",)),
        "os_compute_api:os-snapshot-policies:delete": (WRITE, ("DELETE /os-snapshot-policies/{policy_id}",)),
        "os_compute_api:os-assisted-volume-snapshots:create": ({"service"}, ("POST /os-assisted-volume-snapshots",)),
        "os_compute_api:os-assisted-volume-snapshots:delete": (
            {"service"},
            (
                "DELETE /os-assisted-volume-snapshots/{id}",
                "GET /os-assisted-volume-snapshots/{id}",
                "POST /os-assisted-volume-snapshots/{id}/action cancel",
            ),
        ),
        "os_compute_api:os-assisted-volumes": (
            {"service"},
            (
                "GET /os-assisted-volumes",
                "GET /os-assisted-volumes/{id}",
                "GET /os-assisted-volumes/{id}/users",
                "POST /os-assisted-volumes/{id}/action resize",
                "POST /os-assisted-volumes/{id}/action switch_file",
            ),
        ),
    },
}
ROUTES = [(name, route) for name, service in SERVICES.items() for route in service.routes]


def line(route: Route) -> str:
    return f"{route.method} {route.path}" + (f" {route.action}" if route.action else "")


def named(entry: tuple[str, Route]) -> str:
    return f"{entry[0]} {line(entry[1])}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_stands_under_the_rule_written_here(service: str) -> None:
    wanted = {found: rule for rule, (_, lines) in TABLE[service].items() for found in lines}
    assert {line(route): route.policy for route in SERVICES[service].routes} == wanted


@pytest.mark.parametrize("service", SERVICES)
def test_every_rule_is_one_of_the_table_and_is_not_open_to_all(service: str) -> None:
    assert [rule.name for rule in RULES[service]] == sorted(
        {rule.name for rule in RULES[service]}, key=[rule.name for rule in RULES[service]].index
    )
    assert {rule.name for rule in RULES[service]} == set(TABLE[service])
    for rule in RULES[service]:
        assert re.fullmatch(r"role:\w+( or role:\w+)*", rule.check_str), rule.name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SERVICES)
def test_every_cell_of_the_table_is_as_written(service: str, role: str) -> None:
    enforcer = Enforcer(RULES[service])
    allowed = set()
    for rule in TABLE[service]:
        try:
            enforcer.check(rule, context(role))
            allowed.add(rule)
        except Forbidden as error:
            assert rule in error.message
    assert allowed == {rule for rule, (roles, _) in TABLE[service].items() if role in roles}


def body_of(route: Route) -> Any:
    return {route.action: None} if route.action else None


@pytest.mark.parametrize("entry", ROUTES, ids=named)
def test_every_route_asks_its_rule_before_anything_else(database: Database, tmp_path: Path, entry: tuple[str, Route]) -> None:
    name, route = entry
    reached: list[str] = []
    open_route = replace(route, handler=lambda call: reached.append(call.context.roles[0]), schema=None)
    service = replace(SERVICES[name], routes=(open_route,))
    site = Site(database, tmp_path, service)
    path = re.sub(r"\{\w+\}", "demo", route.path)
    headers = {"OpenStack-API-Version": f"{service.name} latest"}
    for role in ROLES:
        answer = site.ask(route.method, service.prefix + path, who=role, json=body_of(route), headers=headers)
        assert answer.status_code == (route.status if role in reached else 403), role
    assert set(reached) == TABLE[name][route.policy][0]


def test_a_caller_without_any_role_may_do_nothing() -> None:
    for service, rules in TABLE.items():
        for rule in rules:
            with pytest.raises(Forbidden):
                Enforcer(RULES[service]).check(rule, replace(context(), roles=()))


def test_a_rule_that_does_not_exist_is_denied_even_to_admins() -> None:
    with pytest.raises(Forbidden):
        Enforcer([RuleDefault("known", "role:admin")]).check("unknown", context("admin", "service", "member"))


def test_the_operators_file_overrides_a_rule(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"known": "role:auditor"\n')
    enforcer = Enforcer([RuleDefault("known", "role:admin"), RuleDefault("other", "role:admin")], str(file))
    enforcer.check("known", context("auditor"))
    enforcer.check("other", context("admin"))
    with pytest.raises(Forbidden):
        enforcer.check("known", context("admin"))
