"""Who may take part: device keys, fleets, tokens, certificates, revocations, and the policy that uses them.

    keys.py          a device's signing and CURVE keys; node id = hash of the signing key
    fleet.py         the fleet's key: invite, approve, revoke
    token.py         a join token as one line of text
    certificate.py   fleet -> enrolment -> device, verified offline
    revocation.py    the signed, growing list of what is no longer admitted
    reason.py        why a door opens or stays shut: stable codes and texts
    admission.py     the policy: allow list, pending requests, approvals, uses of tokens
    signing.py       signatures of application owners
    private_file.py  files that hold secrets

This room knows no sockets and no clock: no certificate ever expires, it is revoked.
"""
