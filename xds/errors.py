"""
Failures of the environment: the one small exception tree of the project.

A user's mistake in a policy is a `Diagnostic`, not an exception; a bug is an `assert`. What is left
is the world around us, and each edge turns the exceptions of its library into one of these::

    EgressXdsError
    ├── SettingsError       a flag or an environment variable is unusable      (exit code 2)
    ├── SourceError         a policy source can't be read                      (exit code 2)
    ├── ListenError         the server can't take its address                  (exit code 3)
    ├── UnreachableError    a server that the command needs does not answer    (exit code 3)
    └── CaptureError        the kernel or iptables refuses the capture rules   (exit code 3)

Every message names the object, what is wrong with it and what to try next. No message ever holds a
credential.
"""

from __future__ import annotations


class EgressXdsError(Exception):
    """Base of every failure that the project raises on purpose; `exit_code` is the CLI's."""

    exit_code = 1


class SettingsError(EgressXdsError):
    """A flag or an environment variable has an unusable value."""

    exit_code = 2


class SourceError(EgressXdsError):
    """A policy source (a directory, later a cluster) can't be read at all."""

    exit_code = 2


class ListenError(EgressXdsError):
    """The server can't take the address it was told to listen on."""

    exit_code = 3


class UnreachableError(EgressXdsError):
    """A server that this command needs does not answer, or breaks off."""

    exit_code = 3


class CaptureError(EgressXdsError):
    """The capture rules can't be read, applied or removed."""

    exit_code = 3
