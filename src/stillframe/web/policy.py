"""Policy: one rule for each route, checked before the handler runs. A call without a rule is denied."""

from collections.abc import Sequence

from oslo_config import cfg
from oslo_policy import policy

from stillframe.context import Context
from stillframe.errors import Forbidden

READER = "role:reader or role:service or role:admin"
MEMBER = "role:member or role:admin"
SERVICE = "role:service"
ADMIN = "role:admin"
ADMIN_OR_SERVICE = "role:service or role:admin"
MEMBER_OR_SERVICE = "role:member or role:service or role:admin"


class Enforcer:
    """The rules of one service, as its ``policies.py`` lists them, overridden by ``policy.yaml`` if there is one."""

    def __init__(self, rules: Sequence[policy.RuleDefault], policy_file: str | None = None) -> None:
        conf = cfg.ConfigOpts()
        conf([], project="stillframe", default_config_files=[])
        self._enforcer = policy.Enforcer(conf, policy_file=policy_file)
        self._enforcer.register_defaults(rules)
        self._names = {rule.name for rule in rules}

    def check(self, rule: str, context: Context) -> None:
        """Raises Forbidden unless the rule exists and allows the caller."""
        # A service token adds only this one role: the other roles of its user are not the caller's.
        roles = [*context.roles, *(["service"] if context.with_service_token else [])]
        credentials = {"user_id": context.user_id, "project_id": context.project_id, "roles": roles}
        target = {"project_id": context.project_id}
        if rule not in self._names or not self._enforcer.enforce(rule, target, credentials):
            raise Forbidden(f"policy does not allow {rule} to be performed")
