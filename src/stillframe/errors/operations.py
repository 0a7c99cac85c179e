"""An operation, one of its steps, or a program or guest agent that a step used, has failed or was stopped."""

from stillframe.errors.base import StillframeError


class StillRunning(StillframeError):
    """A command waited as long as it was asked to. What it waited for continues."""

    code, status = "still_running", 409
    hint = "Nothing was cancelled. Look again with show, or wait longer with --timeout."


class AgentFailed(StillframeError):
    """The guest agent is absent, hung, or refused a command."""

    code, status = "agent_failed", 409
    hint = "Check qemu-guest-agent inside the guest and the org.qemu.guest_agent.0 channel of the domain."


class HookFailed(AgentFailed):
    """A hook, which the guest agent runs before a freeze and after a thaw, ended with an error. If it failed after the thaw,
    the guest is thawed."""

    code = "hook_failed"
    hint = (
        "Look at the hook's own log inside the guest (with Debian's wrapper /var/log/qga-fsfreeze-hook.log), and fix the hook."
    )


class StepFailed(StillframeError):
    """A step failed; the operation is undone."""

    code, status = "step_failed", 409
    hint = "Fix what the message names. Look at what is left (show or list), then repeat."


class HypervisorRefused(StepFailed):
    """libvirt, or QEMU behind it, refused a call. The message quotes it."""

    code = "hypervisor_refused"
    hint = "The message quotes libvirt: fix what it names, then repeat."


class TargetRefused(StepFailed):
    """A volume's iSCSI target answers, but does not accept the name and the password that block storage gave for it."""

    code = "target_refused"
    hint = "Detach the volume and attach it again, which gives it a new password; if that does not help, look at the target."


class Parked(StillframeError):
    """What was found matches neither the state before a step nor the state after it. A person has to look; nothing is
    touched."""

    code, status = "parked", 409
    hint = "Read the message and fix the named thing; then 'stillframe operation retry ID' continues the operation."


class Abandoned(StillframeError):
    """A person ended a parked operation where it stood: nothing was put back, and nothing removed."""

    code, status = "abandoned", 409
    hint = "Nothing was put back and nothing removed: 'stillframe doctor' names what is left and what can be done."


class Cancelled(StillframeError):
    """Somebody cancelled the operation. It ends where it is, and goes neither back nor forward."""

    code, status = "cancelled", 409
    hint = "The message says what is left; repeat the deletion to finish it."


class HostCommandFailed(StillframeError):
    """An outside program failed, was killed by a signal, or took too long."""

    code, status = "host_command_failed", 409
    hint = "The message quotes the program: fix what it names, then repeat."


class AccessRefused(HostCommandFailed):
    """The host does not let the service, libvirt or QEMU use a file or a call."""

    code, status = "access_refused", 403
    hint = (
        "Have an operator check the owner, the mode and the security label (AppArmor, SELinux) of what the message names, and"
        " what libvirt allows the service's user; then repeat."
    )


class ImageLocked(HostCommandFailed):
    """QEMU could not lock a file, because another program has it open. Most programs do so only for a moment."""

    code, may_retry = "image_locked", True
    hint = "Wait until no other program has the named file open ('fuser FILE' on its host names it), then repeat."
